package apply

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
)

// rediscovery bounds how often an unknown kind makes the cluster's kinds be read again.
const rediscovery = 10 * time.Second

// Mapping is how a kind is addressed.
type Mapping struct {
	schema.GroupVersionResource
	Kind       string
	Namespaced bool
}

// GroupVersionKind of the mapping.
func (m Mapping) GroupVersionKind() schema.GroupVersionKind { return m.GroupVersion().WithKind(m.Kind) }

// Kinds knows what kinds the cluster serves. All of discovery is read once, in two requests, when first needed, and
// again when a kind is unknown, at most every ten seconds. Kinds of CRDs that we apply ourselves need no discovery.
type Kinds struct {
	discovery discovery.CachedDiscoveryInterface
	mapper    *restmapper.DeferredDiscoveryRESTMapper

	mu    sync.Mutex
	known map[schema.GroupVersionKind]Mapping
	read  time.Time // of the last reset
}

func newKinds(config *rest.Config, httpClient *http.Client) (*Kinds, error) {
	client, err := discovery.NewDiscoveryClientForConfigAndClient(config, httpClient)
	if err != nil {
		return nil, fmt.Errorf("reach the cluster: %w", err)
	}
	cached := memory.NewMemCacheClient(client)
	return &Kinds{
		discovery: cached, mapper: restmapper.NewDeferredDiscoveryRESTMapper(cached),
		known: map[schema.GroupVersionKind]Mapping{},
	}, nil
}

// Discovery is the cached discovery client.
func (k *Kinds) Discovery() discovery.CachedDiscoveryInterface { return k.discovery }

// RESTMapper over the cached discovery.
func (k *Kinds) RESTMapper() meta.RESTMapper { return k.mapper }

// Mapping of the object's kind in its own version. The error satisfies meta.IsNoMatchError when the cluster doesn't
// serve it.
func (k *Kinds) Mapping(_ context.Context, ref Ref) (Mapping, error) {
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.mapping(gvk.GroupKind(), gvk.Version)
}

// Any mapping of the object's kind: its own version, or else the version that the cluster prefers.
func (k *Kinds) Any(ctx context.Context, ref Ref) (Mapping, error) {
	mapping, err := k.Mapping(ctx, ref)
	if !meta.IsNoMatchError(err) {
		return mapping, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.mapping(ref.ID().groupKind(), "")
}

func (k *Kinds) mapping(kind schema.GroupKind, version string) (Mapping, error) {
	gvk := kind.WithVersion(version)
	if mapping, ok := k.known[gvk]; ok {
		return mapping, nil
	}
	var versions []string
	if version != "" {
		versions = []string{version}
	}
	found, err := k.mapper.RESTMapping(kind, versions...)
	if meta.IsNoMatchError(err) && time.Since(k.read) > rediscovery {
		k.read = time.Now()
		k.mapper.Reset()
		found, err = k.mapper.RESTMapping(kind, versions...)
	}
	if err != nil {
		return Mapping{}, fmt.Errorf("find kind %s %s: %w", gvk.GroupVersion(), kind.Kind, err)
	}
	mapping := Mapping{
		GroupVersionResource: found.Resource, Kind: kind.Kind,
		Namespaced: found.Scope.Name() == meta.RESTScopeNameNamespace,
	}
	k.known[gvk] = mapping
	return mapping, nil
}

// Reset makes the next unknown kind read the cluster's kinds anew: CRDs were created.
func (k *Kinds) Reset() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mapper.Reset()
}

// forget drops what is known about a kind, because the server no longer serves it that way.
func (k *Kinds) forget(gvk schema.GroupVersionKind) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.known, gvk)
}

// learn takes kinds from the CRDs among objects: the CRs beside them need no second discovery.
func (k *Kinds) learn(objects []*unstructured.Unstructured) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, object := range objects {
		if !isCRD(object) {
			continue
		}
		group, _, _ := unstructured.NestedString(object.Object, "spec", "group")
		kind, _, _ := unstructured.NestedString(object.Object, "spec", "names", "kind")
		plural, _, _ := unstructured.NestedString(object.Object, "spec", "names", "plural")
		scope, _, _ := unstructured.NestedString(object.Object, "spec", "scope")
		versions, _, _ := unstructured.NestedSlice(object.Object, "spec", "versions")
		for _, version := range versions {
			fields, ok := version.(map[string]any)
			if !ok || fields["served"] != true {
				continue
			}
			name, _ := fields["name"].(string)
			gv := schema.GroupVersion{Group: group, Version: name}
			k.known[gv.WithKind(kind)] = Mapping{
				GroupVersionResource: gv.WithResource(plural), Kind: kind, Namespaced: scope == "Namespaced",
			}
		}
	}
}

func isCRD(object *unstructured.Unstructured) bool {
	return RefOf(object).GroupKind() == crdKind
}

var (
	crdKind       = schema.GroupKind{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}
	namespaceKind = schema.GroupKind{Kind: "Namespace"}
)
