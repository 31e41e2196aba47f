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
	return group("keys", "Make keys to sign with",
		"Make keys to sign with. They are cosign's: cosign generate-key-pair makes the same, and cosign verify --key accepts what they signed.",
		newKeysGenerateCommand(s))
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

func runKeysGenerate(s *session, opts keysGenerateOptions) error {
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
	private, public, err := signing.GenerateKey(password)
	if err != nil {
		return fmt.Errorf("generate key: %w", err)
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

// maxSmallFile bounds keys, passwords and policies, which are read whole.
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

// signer loads the private key.
func (s *session) signer(keyFile, passwordFile string) (*signing.Signer, error) {
	private, err := readSmallFile(keyFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("signing key %s: %w; make one with: pinnace keys generate", keyFile, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	password, err := s.password(passwordFile, false)
	if err != nil {
		return nil, err
	}
	signer, err := signing.LoadSigner(private, password)
	if errors.Is(err, signing.ErrPassword) {
		return nil, fmt.Errorf("signing key %s: %w; check COSIGN_PASSWORD or --password-file", keyFile, err)
	}
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w", keyFile, err)
	}
	return signer, nil
}
