package mirror

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"pinnace.dev/pinnace/pkg/oci"
)

// Hosts is how container runtimes find images at a receiver.
type Hosts struct {
	// Receiver is the receiver's address, host[:port]; Path the prefix below it.
	Receiver, Path string
	PlainHTTP      bool
	// CAFile is a path on the nodes.
	CAFile string
	// Images are registries whose images are mirrored, such as docker.io.
	Images []string
	// Fallback lets nodes ask the registry itself for what the receiver lacks.
	Fallback bool
}

// ImageHosts returns the registries of a closure's images.
func ImageHosts(closure *Closure) []string {
	hosts := map[string]bool{}
	for _, entry := range closure.Entries {
		if name, err := oci.ParseImage(entry.Reference); entry.Kind == KindImage && err == nil {
			hosts[name.Host] = true
		}
	}
	return slices.Sorted(maps.Keys(hosts))
}

func (h *Hosts) url() string {
	if h.PlainHTTP {
		return "http://" + h.Receiver
	}
	return "https://" + h.Receiver
}

// folder of a registry's images at the receiver.
func (h *Hosts) folder(host string) string {
	return strings.TrimPrefix(h.Path+"/"+oci.MirroredHost(host), "/")
}

// K3s is a registries.yaml for k3s and RKE2. They try the registry itself after the mirror unless the node is started
// with --disable-default-registry-endpoint.
//
// See https://docs.k3s.io/installation/private-registry
func (h *Hosts) K3s() ([]byte, error) {
	type k3sMirror struct {
		Endpoint []string          `json:"endpoint"`
		Rewrite  map[string]string `json:"rewrite"`
	}
	type k3sTLS struct {
		CAFile string `json:"ca_file"`
	}
	type k3sConfig struct {
		TLS k3sTLS `json:"tls"`
	}
	file := struct {
		Mirrors map[string]k3sMirror `json:"mirrors"`
		Configs map[string]k3sConfig `json:"configs,omitempty"`
	}{Mirrors: map[string]k3sMirror{}}
	for _, host := range h.Images {
		file.Mirrors[host] = k3sMirror{Endpoint: []string{h.url()}, Rewrite: map[string]string{"^(.*)$": h.folder(host) + "/$1"}}
	}
	if h.CAFile != "" {
		file.Configs = map[string]k3sConfig{h.Receiver: {TLS: k3sTLS{CAFile: h.CAFile}}}
	}
	return yaml.Marshal(file)
}

// upstreams are registries whose address is not their name.
var upstreams = map[string]string{"docker.io": "https://registry-1.docker.io"}

// Containerd are hosts.toml files, by path below containerd's config_path (/etc/containerd/certs.d).
//
// See https://github.com/containerd/containerd/blob/v2.1.0/docs/hosts.md
func (h *Hosts) Containerd() map[string][]byte {
	files := map[string][]byte{}
	for _, host := range h.Images {
		var b strings.Builder
		if server, ok := upstreams[host]; h.Fallback && ok {
			fmt.Fprintf(&b, "server = %q\n\n", server)
		} else if h.Fallback {
			fmt.Fprintf(&b, "server = %q\n\n", "https://"+host)
		} else {
			// The server is what is asked last; the receiver too, so that no node looks outside.
			fmt.Fprintf(&b, "server = %q\noverride_path = true\n\n", h.url()+"/v2/"+h.folder(host))
		}
		fmt.Fprintf(&b, "[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n  override_path = true\n", h.url()+"/v2/"+h.folder(host))
		if h.CAFile != "" {
			fmt.Fprintf(&b, "  ca = %q\n", h.CAFile)
		}
		files[containerdFolder(host)+"/hosts.toml"] = []byte(b.String())
	}
	return files
}

// containerdFolder writes a port as containerd looks for it: host_port_.
func containerdFolder(host string) string {
	if name, port, ok := strings.Cut(host, ":"); ok {
		return name + "_" + port + "_"
	}
	return host
}
