package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"pinnace.dev/pinnace/pkg/oci/signing"
)

func newKeysCommand(s *session) *cobra.Command {
	return group("keys", "Make and import keys to sign with",
		"Make and import keys to sign with. They are cosign's: cosign generate-key-pair makes the same, and cosign verify --key accepts what they signed.",
		newKeysGenerateCommand(s), newKeysImportCommand(s), newKeysPublicCommand(s))
}

type keysGenerateOptions struct {
	prefix       string
	passwordFile string
	age          bool
}

func newKeysGenerateCommand(s *session) *cobra.Command {
	var opts keysGenerateOptions
	cmd := &cobra.Command{
		Use:   "generate",
		Short: "Make a key pair",
		Long: `Make a key pair in cosign's format: an encrypted private key and a public one. The password comes from
--password-file, from COSIGN_PASSWORD, or is asked for on a terminal; an empty COSIGN_PASSWORD is an empty password.

Files that exist are never overwritten.`,
		Example: `  # cosign.key and cosign.pub, here
  pinnace keys generate

  # The key of one cluster's status reports
  pinnace keys generate --output-key-prefix factory-01 --password-file password

  # The key that one cluster opens sealed values with, factory-01.agekey
  pinnace keys generate --age --output-key-prefix factory-01`,
		Args: arguments(0, 0, "no argument"),
		RunE: func(*cobra.Command, []string) error {
			if opts.age {
				return runKeysGenerateAge(s, opts.prefix+".agekey")
			}
			return runKeysGenerate(s, opts)
		},
	}
	cmd.Flags().StringVar(&opts.prefix, "output-key-prefix", "cosign", "path of the files without .key and .pub")
	cmd.Flags().StringVar(&opts.passwordFile, "password-file", "", "file with the password in its first line")
	cmd.Flags().BoolVar(&opts.age, "age", false, "make a cluster's age key instead, which opens what is sealed to the cluster")
	return cmd
}

func newKeysImportCommand(s *session) *cobra.Command {
	var opts keysGenerateOptions
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Turn another tool's private key into a key pair",
		Long: `Turn a private key that another tool made into a key pair in cosign's format, encrypted with a password. The file is
PEM and not encrypted: PKCS #8, PKCS #1 or SEC 1, of ECDSA, RSA (2048 bits or more) or Ed25519.

It is read and left as it is: delete it afterwards.`,
		Example: `  # A key that OpenSSL made
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out release.pem
  pinnace keys import release.pem --output-key-prefix release

  # One that is encrypted, without leaving it bare on a disk
  pinnace keys import <(openssl pkcs8 -in old.pem) --output-key-prefix release`,
		Args: arguments(1, 1, "one file"),
		RunE: func(_ *cobra.Command, args []string) error {
			err := s.writeKeyPair(opts, func(password []byte) ([]byte, []byte, error) { return signing.ImportKey(args[0], password) })
			return ofInput(err)
		},
	}
	cmd.Flags().StringVar(&opts.prefix, "output-key-prefix", "cosign", "path of the files without .key and .pub")
	cmd.Flags().StringVar(&opts.passwordFile, "password-file", "", "file with the password in its first line")
	return cmd
}

func newKeysPublicCommand(s *session) *cobra.Command {
	var key, passwordFile string
	cmd := &cobra.Command{
		Use:   "public",
		Short: "Print the public key of a private one",
		Long:  `Print the public key of a private one, PEM, as a trust policy names it: of a file, of the environment or of a key in a KMS.`,
		Example: `  # Of a key file
  pinnace keys public --key cosign.key > cosign.pub

  # Of a key that never leaves its KMS
  pinnace keys public --key awskms:///alias/release`,
		Args: arguments(0, 0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if key == "" {
				return usagef("no key is named; name one with --key")
			}
			signer, err := s.openKey(cmd.Context(), key, passwordFile)
			if err != nil {
				return err
			}
			return s.printf("%s", signer.PublicKey())
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "private key: a file, env://VARIABLE or a KMS's URI")
	cmd.Flags().StringVar(&passwordFile, "password-file", "", "file with the key's password in its first line; COSIGN_PASSWORD when empty")
	return cmd
}

func runKeysGenerate(s *session, opts keysGenerateOptions) error {
	return s.writeKeyPair(opts, signing.GenerateKey)
}

// writeKeyPair asks for a password and writes what is made with it. Files that exist are left alone.
func (s *session) writeKeyPair(opts keysGenerateOptions, pair func(password []byte) (private, public []byte, err error)) error {
	privateFile, publicFile := opts.prefix+".key", opts.prefix+".pub"
	for _, file := range []string{privateFile, publicFile} {
		if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
			return usagef("%s exists; choose another --output-key-prefix, or move it away", file)
		}
	}
	password, err := s.password(opts.passwordFile, true)
	if err != nil {
		return err
	}
	private, public, err := pair(password)
	if err != nil {
		return err
	}
	if err := writeKey(privateFile, private, 0o600); err != nil {
		return err
	}
	if err := writeKey(publicFile, public, 0o644); err != nil {
		return err
	}
	s.message(markDone, "sign with %s and keep it secret; agents trust %s", privateFile, publicFile)
	return s.printf("%s\n%s\n", privateFile, publicFile)
}

// writeKey never overwrites: a lost key cannot be had again.
func writeKey(file string, data []byte, mode os.FileMode) error {
	out, err := os.OpenFile(filepath.Clean(file), os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	if _, err := out.Write(data); err != nil {
		return fmt.Errorf("write key: %w", errors.Join(err, out.Close()))
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	return nil
}

// maxSmallFile stops a key, password or policy that is somebody's disk image by mistake: they are read whole.
const maxSmallFile = 1 << 20

func readSmallFile(file string) ([]byte, error) {
	in, err := os.Open(filepath.Clean(file))
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }()
	data, err := io.ReadAll(io.LimitReader(in, maxSmallFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	if len(data) > maxSmallFile {
		return nil, fmt.Errorf("%s has more than %d bytes", file, maxSmallFile)
	}
	return data, nil
}

// password of a private key: from a file, from cosign's variable, or asked for.
func (s *session) password(file string, repeat bool) ([]byte, error) {
	if file != "" {
		data, err := readSmallFile(file)
		if err != nil {
			return nil, fmt.Errorf("password file: %w", err)
		}
		line, _, _ := bytes.Cut(data, []byte("\n"))
		return bytes.TrimSuffix(line, []byte("\r")), nil
	}
	if value, ok := os.LookupEnv("COSIGN_PASSWORD"); ok {
		return []byte(value), nil
	}
	terminal, ok := s.In.(*os.File)
	if !ok || !term.IsTerminal(int(terminal.Fd())) {
		return nil, usagef("the private key needs a password; set COSIGN_PASSWORD, or name a file with --password-file")
	}
	first, err := s.ask(terminal, "Password for the private key: ")
	if err != nil || !repeat {
		return first, err
	}
	second, err := s.ask(terminal, "The same again: ")
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(first, second) {
		return nil, usagef("the two passwords differ; try again")
	}
	return first, nil
}

func (s *session) ask(terminal *os.File, prompt string) ([]byte, error) {
	s.say("%s", prompt)
	password, err := term.ReadPassword(int(terminal.Fd()))
	s.say("\n")
	if err != nil {
		return nil, fmt.Errorf("read password: %w", err)
	}
	return password, nil
}
