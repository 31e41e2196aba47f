package agentcli

import (
	"errors"
	"os"
	"path/filepath"

	"pinnace.dev/pinnace/api/document"
	"pinnace.dev/pinnace/api/v1alpha1"
)

// loadConfig reads and checks the agent's configuration; every finding has its file and line. Paths come back
// absolute or relative to the working folder, not to the file.
func loadConfig(file string) (v1alpha1.AgentSpec, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return v1alpha1.AgentSpec{}, usagef("read the agent's configuration: %w", err)
	}
	config, doc, err := document.Decode[v1alpha1.AgentConfig](file, data, v1alpha1.KindAgentConfig)
	if err != nil {
		return v1alpha1.AgentSpec{}, usagef("%w", err)
	}
	if err := check(doc, config.Spec); err != nil {
		return v1alpha1.AgentSpec{}, usagef("%w", err)
	}
	spec := config.Spec
	dir := filepath.Dir(file)
	for _, path := range []*string{&spec.StateDir, &spec.TrustPolicy, &spec.StatusKey, &spec.StatusKeyPassword, &spec.Kubeconfig} {
		*path = relativeTo(dir, *path)
	}
	for i := range spec.Identities {
		spec.Identities[i] = relativeTo(dir, spec.Identities[i])
	}
	for i := range spec.Registries {
		spec.Registries[i].CAFile = relativeTo(dir, spec.Registries[i].CAFile)
		spec.Registries[i].DockerConfig = relativeTo(dir, spec.Registries[i].DockerConfig)
	}
	if spec.Webhook != nil {
		spec.Webhook.SecretFile = relativeTo(dir, spec.Webhook.SecretFile)
	}
	return spec, nil
}

// check finds what decoding cannot: what is missing or contradicts itself.
func check(doc document.Document, spec v1alpha1.AgentSpec) error {
	var problems []error
	missing := func(set bool, field, example string) {
		if !set {
			problems = append(problems, doc.Errorf("spec", "%s is missing; set it, such as %s", field, example))
		}
	}
	missing(spec.Fleet != "", "fleet", "fleet: acme")
	missing(spec.Cluster != "", "cluster", "cluster: factory-07")
	missing(len(spec.Registries) > 0, "registries", "registries: [{prefix: registry.example/fleet}]")
	missing(spec.StateDir != "", "stateDir", "stateDir: /var/lib/pinnace")
	missing(spec.TrustPolicy != "", "trustPolicy", "trustPolicy: trust.yaml")
	for _, duration := range []struct {
		path  string
		value int64
	}{
		{"spec.interval", int64(spec.Interval.Duration)},
		{"spec.heartbeat", int64(spec.Heartbeat.Duration)},
		{"spec.driftInterval", int64(spec.DriftInterval.Duration)},
	} {
		if duration.value < 0 {
			problems = append(problems, doc.Errorf(duration.path, "must not be negative"))
		}
	}
	if spec.Webhook != nil && spec.Webhook.Listen == "" {
		problems = append(problems, doc.Errorf("spec.webhook", "listen is missing; set it, such as listen: :8090"))
	}
	if spec.StatusKeyPassword != "" && spec.StatusKey == "" {
		problems = append(problems, doc.Errorf("spec.statusKeyPassword", "there is no statusKey that it would open"))
	}
	return errors.Join(problems...)
}

func relativeTo(dir, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}
