package agentcli

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/internal/exitcode"
	"pinnace.dev/pinnace/pkg/agent"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/sealed"
)

// passwordVariable holds the status key's password where no file does; cosign's own name.
const passwordVariable = "COSIGN_PASSWORD"

// setup is an agent that is ready to run.
type setup struct {
	spec    v1alpha1.AgentSpec
	agent   *agent.Agent
	metrics *agent.Metrics
	state   *agent.State
	cluster *agent.Cluster
	log     *slog.Logger
}

// setUp reads everything that the configuration names and wires it. It reaches neither registry nor cluster. The state
// folder is ours until close.
//
// Where patient is set, a standby waits for its place, and answers probes meanwhile.
func (s *session) setUp(ctx context.Context, file string, patient bool) (*setup, error) {
	spec, err := loadConfig(file)
	if err != nil {
		return nil, err
	}
	log := s.log()
	version, commit := s.build()
	verifier, trust, local, err := loadPolicy(spec.TrustPolicy, spec.StateDir, log)
	if err != nil {
		return nil, err
	}
	signer, err := loadStatusKey(spec)
	if err != nil {
		return nil, err
	}
	userAgent := "pinnace-agent/" + version
	registries := make([]oci.Registry, 0, len(spec.Registries))
	for _, registry := range spec.Registries {
		opened, err := oci.Open(registry.Prefix, registryOptions(registry, userAgent))
		if err != nil {
			return nil, usagef("%s: spec.registries: %w", file, err)
		}
		registries = append(registries, opened)
	}
	kubernetes, err := restConfig(spec.Kubeconfig)
	if err != nil {
		return nil, err
	}
	kubernetes.UserAgent = userAgent

	patient = patient && spec.Standby
	state, err := openState(ctx, spec, patient, log)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*setup, error) { return nil, errors.Join(err, state.Close()) }
	content, err := oci.OpenLayout(state.ContentDir())
	if err != nil {
		return fail(exitcode.With(exitcode.Damaged, err))
	}
	identity, err := state.Identity()
	if err != nil {
		return fail(err)
	}
	cluster, err := agent.NewCluster(kubernetes, identity, agent.ClusterOptions{Sweep: spec.DriftInterval.Duration, Log: log})
	if err != nil {
		return fail(err)
	}
	metrics := agent.NewMetrics()
	metrics.Build(version, commit)
	config := agent.Config{
		Fleet: spec.Fleet, Cluster: spec.Cluster, Registries: registries, State: state, Content: content,
		Verifier: verifier, Deployers: cluster.Deployers, ClusterKind: cluster.ClusterKind, Holder: cluster.Hold, Standby: patient,
		Objects: cluster.Objects, Events: cluster.Recorder, Local: cluster.Local, Drift: cluster.Drift, Limits: spec.Limits, Interval: spec.Interval.Duration,
		Heartbeat: spec.Heartbeat.Duration, Version: version, Kubernetes: cluster.Version, Facts: cluster.Facts, Log: log, Metrics: metrics,
	}
	if local != nil {
		config.Images = images{verifier: local, registries: registries, spec: spec.Registries, userAgent: userAgent}
	}
	if signer != nil {
		config.Signer = signer
	}
	if trust != nil {
		config.Trust = trust
	}
	if len(spec.Identities) > 0 {
		config.Identities = func() (sealed.Identities, error) { return loadIdentities(spec.Identities) }
		if _, err := config.Identities(); err != nil {
			return fail(usagef("%s: spec.identities: %w", file, err))
		}
	}
	return &setup{
		spec: spec, agent: agent.New(config), metrics: metrics, state: state, cluster: cluster, log: log,
	}, nil
}

// close waits for what cannot be interrupted and gives the state folder back.
func (s *setup) close() error {
	s.cluster.Wait()
	return s.state.Close()
}

// loadStatusKey reads the key that status reports are signed with; nil when there is none.
func loadStatusKey(spec v1alpha1.AgentSpec) (*signing.Signer, error) {
	if spec.StatusKey == "" {
		return nil, nil
	}
	private, err := os.ReadFile(spec.StatusKey)
	if err != nil {
		return nil, usagef("read the status key: %w", err)
	}
	password := []byte(os.Getenv(passwordVariable))
	if spec.StatusKeyPassword != "" {
		if password, err = os.ReadFile(spec.StatusKeyPassword); err != nil {
			return nil, usagef("read the status key's password: %w", err)
		}
		password = bytes.TrimRight(password, "\r\n")
	}
	signer, err := signing.LoadSigner(private, password)
	if err != nil {
		return nil, usagef("status key %s: %w; its password is read from spec.statusKeyPassword or $%s", spec.StatusKey, err, passwordVariable)
	}
	return signer, nil
}

// restConfig reaches the cluster: the file that was named, or the usual rules, which end with the pod's own account.
func restConfig(kubeconfig string) (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if err != nil {
		return nil, usagef("find the cluster: %w; set spec.kubeconfig, or run in the cluster", err)
	}
	return config, nil
}

// exitCode adds what only the agent knows to the common table.
func exitCode(err error) int {
	var typed *agent.Error
	if coded := (*exitcode.Error)(nil); !errors.As(err, &coded) && errors.As(err, &typed) {
		if code, known := codes[typed.Reason]; known {
			return code
		}
	}
	return exitcode.For(err)
}

// codes of the agent's reasons; what is missing here is classified by its cause.
var codes = map[agent.Reason]int{
	agent.ReasonSignatureMissing:    exitcode.Refused,
	agent.ReasonSignatureMismatch:   exitcode.Refused,
	agent.ReasonKeyNotTrusted:       exitcode.Refused,
	agent.ReasonThresholdNotMet:     exitcode.Refused,
	agent.ReasonNoRule:              exitcode.Refused,
	agent.ReasonSignatureBroken:     exitcode.Refused,
	agent.ReasonIdentityNotTrusted:  exitcode.Refused,
	agent.ReasonCertificateInvalid:  exitcode.Refused,
	agent.ReasonTransparencyMissing: exitcode.Refused,
	agent.ReasonAttestationMissing:  exitcode.Refused,
	agent.ReasonAttestationRefused:  exitcode.Refused,
	agent.ReasonImageNotPinned:      exitcode.Refused,
	agent.ReasonNotVerified:         exitcode.Refused,
	agent.ReasonWrongCluster:        exitcode.Refused,
	agent.ReasonWrongFleet:          exitcode.Refused,
	agent.ReasonRollback:            exitcode.Refused,
	agent.ReasonEquivocation:        exitcode.Refused,
	agent.ReasonTargetExpired:       exitcode.Refused,
	agent.ReasonClockSkew:           exitcode.Refused,
	agent.ReasonTooLarge:            exitcode.Refused,
	agent.ReasonTrustRootInvalid:    exitcode.Refused,
	agent.ReasonTrustRootExpired:    exitcode.Refused,
	agent.ReasonUnsafePath:          exitcode.Refused,
	agent.ReasonUnsafeAnswer:        exitcode.Refused,
	agent.ReasonOutOfScope:          exitcode.Refused,
	agent.ReasonInvalidTarget:       exitcode.Refused,
	agent.ReasonInvalidBundle:       exitcode.Refused,
	agent.ReasonPruneGuard:          exitcode.Refused,
	agent.ReasonDigestMismatch:      exitcode.Damaged,
	agent.ReasonStateCorrupt:        exitcode.Damaged,
	agent.ReasonUnauthorized:        exitcode.Unauthorized,
	agent.ReasonNotFound:            exitcode.NotFound,
	agent.ReasonUnreachable:         exitcode.Unreachable,
	agent.ReasonStateLocked:         exitcode.Usage,
	agent.ReasonStateUnwritable:     exitcode.No,
	agent.ReasonAnotherAgent:        exitcode.Usage,
}
