package cli

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/internal/exitcode"
	"pinnace.dev/pinnace/pkg/publish"
	"pinnace.dev/pinnace/pkg/sealed"
)

type sealOptions struct {
	fleet      string
	file       string
	cluster    string
	namespace  string
	name       string
	recipients []string
}

func newSealCommand(s *session) *cobra.Command {
	var opts sealOptions
	cmd := &cobra.Command{
		Use:   "seal",
		Short: "Encrypt a value for clusters, to be kept in Git",
		Long: `seal encrypts a text, read from standard input or --file, so that only clusters can read it, and prints it as text for a
YAML file: as a value or variable of a bundle or cluster, or as a value in a Secret. Agents open it with the cluster's
key (spec.identities of their configuration).

Recipients are named by --recipient, or are those of a --cluster of the fleet. What is sealed says for which cluster,
namespace and name it is, where they are given, and cannot be used elsewhere. The name is the bundle's for values and
variables, and the Secret's for data in a Secret.`,
		Example: `  # A password for one cluster of the fleet in this folder, in bundle web
  pinnace seal --cluster factory-07 --namespace shop --name web < password.txt

  # The data of a Secret, for two clusters by their public keys
  pinnace seal --file tls.key --namespace shop --name tls --recipient age1… --recipient age1…`,
		Args: arguments(0, 0, "no argument"),
		RunE: func(*cobra.Command, []string) error { return runSeal(s, opts) },
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.fleet, "fleet", ".", "folder of the fleet repository that --cluster is looked up in")
	flags.StringVar(&opts.file, "file", "", "read the text from this file; standard input when empty")
	flags.StringVar(&opts.cluster, "cluster", "", "seal for this cluster alone; its recipients are read from the fleet where no --recipient is given")
	flags.StringVarP(&opts.namespace, "namespace", "n", "", "bind to this namespace")
	flags.StringVar(&opts.name, "name", "", "bind to this bundle, or to this Secret")
	flags.StringArrayVar(&opts.recipients, "recipient", nil, "a public key (age1…); may be repeated")
	return cmd
}

func runSeal(s *session, opts sealOptions) error {
	to, err := opts.to()
	if err != nil {
		return err
	}
	text, err := opts.text(s.In)
	if err != nil {
		return err
	}
	data, err := sealed.Seal(to, sealed.Binding{Cluster: opts.cluster, Namespace: opts.namespace, Name: opts.name}, []any{text})
	if err != nil {
		return err
	}
	return s.printf("%s", sealed.Armor(data))
}

// to returns the recipients that were named, or the cluster's.
func (o sealOptions) to() (sealed.Recipients, error) {
	if len(o.recipients) == 0 && o.cluster == "" {
		return sealed.Recipients{}, usagef("name who may read it: --cluster, or --recipient")
	}
	keys := o.recipients
	if len(keys) == 0 {
		clusters, err := publish.Clusters(o.fleet)
		if err != nil {
			return sealed.Recipients{}, err
		}
		cluster, found := clusters[o.cluster]
		if !found {
			return sealed.Recipients{}, exitcode.With(exitcode.NotFound, fmt.Errorf("cluster %q is not in the fleet %s", o.cluster, o.fleet))
		}
		if keys = cluster.Spec.Recipients; len(keys) == 0 {
			return sealed.Recipients{}, cluster.Document.Errorf("spec", "cluster %q has no recipients; make a key with pinnace keys generate --age, and set spec.recipients", o.cluster)
		}
	}
	to, err := sealed.ParseRecipients(keys)
	if err != nil {
		return to, usagef("%w", err)
	}
	return to, nil
}

// text reads what is sealed, without the line break at its end that editors and echo add.
func (o sealOptions) text(in io.Reader) (string, error) {
	if o.file != "" {
		file, err := os.Open(o.file)
		if err != nil {
			return "", fmt.Errorf("read what is sealed: %w", err)
		}
		defer func() { _ = file.Close() }()
		in = file
	}
	data, err := io.ReadAll(io.LimitReader(in, sealed.MaxData+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("read what is sealed: %w", err)
	case len(data) > sealed.MaxData:
		return "", fmt.Errorf("what is sealed has more than %d bytes; bring large secrets as files that SOPS encrypts", sealed.MaxData)
	case len(data) == 0:
		return "", usagef("there is nothing to seal; pipe it in, or name a --file")
	}
	if o.file == "" && data[len(data)-1] == '\n' {
		data = data[:len(data)-1]
	}
	return string(data), nil
}
