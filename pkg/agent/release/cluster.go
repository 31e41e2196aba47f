package release

import (
	"context"
	"fmt"
	"io"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"pinnace.dev/pinnace/pkg/agent/apply"
)

// getter gives Helm its clients: the release's identity, and the cluster's kinds from the cache that all share, so that
// an action costs no discovery.
type getter struct {
	config    *rest.Config
	kinds     *apply.Kinds
	namespace string
}

func (g getter) ToRESTConfig() (*rest.Config, error) { return rest.CopyConfig(g.config), nil }

func (g getter) ToDiscoveryClient() (discovery.CachedDiscoveryInterface, error) {
	return g.kinds.Discovery(), nil
}

func (g getter) ToRESTMapper() (meta.RESTMapper, error) { return g.kinds.RESTMapper(), nil }

func (g getter) ToRawKubeConfigLoader() clientcmd.ClientConfig {
	return clientcmd.NewDefaultClientConfig(*clientcmdapi.NewConfig(), &clientcmd.ConfigOverrides{
		Context: clientcmdapi.Context{Namespace: g.namespace},
	})
}

// config sets Helm up for one release.
func (r *Releaser) config(release Release) (*action.Configuration, error) {
	restConfig := r.applier.Config()
	if account := release.Options.ServiceAccount; account != "" {
		restConfig.Impersonate = rest.ImpersonationConfig{
			UserName: "system:serviceaccount:" + release.Namespace + ":" + account,
		}
	}
	config := &action.Configuration{HookOutputFunc: func(_, _, _ string) io.Writer { return io.Discard }}
	log := r.options.Log.With("bundle", release.Bundle)
	err := config.Init(getter{config: restConfig, kinds: r.applier.Kinds(), namespace: release.Namespace}, release.Namespace, "secret",
		func(format string, args ...any) { log.Debug("helm", "message", fmt.Sprintf(format, args...)) })
	if err != nil {
		return nil, fmt.Errorf("set up helm: %w", err)
	}
	config.Releases.MaxHistory = release.maxHistory()
	return config, nil
}

// capabilities are what a chart may ask about the cluster, from the shared cache of its kinds; Helm itself would read
// all of discovery for each action.
func (r *Releaser) capabilities() (*chartutil.Capabilities, error) {
	kinds := r.applier.Kinds().Discovery()
	info, err := kinds.ServerVersion()
	if err != nil {
		return nil, fmt.Errorf("read the cluster's version: %w", err)
	}
	versions, err := action.GetVersionSet(kinds)
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
		return nil, fmt.Errorf("read the cluster's kinds: %w", err)
	}
	return &chartutil.Capabilities{
		KubeVersion: chartutil.KubeVersion{Version: info.GitVersion, Major: info.Major, Minor: info.Minor},
		APIVersions: versions, HelmVersion: chartutil.DefaultCapabilities.HelmVersion,
	}, nil
}

// customResources creates the CRDs of the chart's crds/ folder that are absent, on upgrades too, and with ReplaceCRDs
// updates those that are there. As with Helm they belong to no release and are never pruned.
func (r *Releaser) customResources(ctx context.Context, release Release, packed *chart.Chart) error {
	bundle := release.AsBundle()
	bundle.Previous, bundle.Shared = nil, true
	for _, crd := range packed.CRDObjects() {
		objects, err := decode(crd.File.Data)
		if err != nil {
			return fmt.Errorf("chart %s: %s: %w", packed.Name(), crd.Filename, err)
		}
		for _, object := range objects {
			_, err := r.applier.Get(ctx, bundle, apply.RefOf(object))
			switch {
			case err == nil && !release.Helm.ReplaceCRDs:
				continue
			case err != nil && !apierrors.IsNotFound(err):
				return fmt.Errorf("read %s: %w", apply.RefOf(object), err)
			}
			bundle.Objects = append(bundle.Objects, object)
		}
	}
	if len(bundle.Objects) == 0 {
		return nil
	}
	result, err := r.applier.Apply(ctx, bundle)
	if result.Count(apply.Created) > 0 {
		r.applier.Kinds().Reset()
	}
	return err
}
