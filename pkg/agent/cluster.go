package agent

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent/apply"
	"pinnace.dev/pinnace/pkg/agent/drift"
	"pinnace.dev/pinnace/pkg/agent/release"
)

// ClusterOptions of a [Cluster]; the zero value is good.
type ClusterOptions struct {
	// Namespace holds the Lease; DefaultNamespace when empty.
	Namespace string
	// Sweep is how often drift is looked for beside the watch; ten minutes when zero.
	Sweep time.Duration
	Log   *slog.Logger
}

// Cluster is everything of a [Config] that works on a real Kubernetes cluster.
type Cluster struct {
	Deployers map[v1alpha1.Method]Deployer
	Hold      *Hold
	Objects   *Objects
	Recorder  *Recorder
	Local     *Locals
	Drift     *Drift

	applier  *apply.Applier
	releaser *release.Releaser
}

// NewCluster sets up the clients. It sends nothing. identity is the state folder's.
func NewCluster(config *rest.Config, identity string, options ClusterOptions) (*Cluster, error) {
	applier, err := apply.New(config, apply.Options{})
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, coordinationv1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	client, err := client.NewWithWatch(applier.Config(), client.Options{
		HTTPClient: applier.HTTPClient(), Scheme: scheme, Mapper: ownKinds(),
	})
	if err != nil {
		return nil, fmt.Errorf("reach the cluster: %w", err)
	}
	source, err := NewDrift(applier, drift.Options{Sweep: options.Sweep, Log: options.Log})
	if err != nil {
		return nil, err
	}
	objects := &Objects{Client: client}
	releaser := release.New(applier, release.Options{Log: options.Log})
	return &Cluster{
		Deployers: map[v1alpha1.Method]Deployer{
			v1alpha1.MethodApply:   Applying{Applier: applier},
			v1alpha1.MethodRelease: Releasing{Releaser: releaser, Applier: applier},
		},
		Hold: &Hold{
			Client: client, Namespace: options.Namespace, Identity: identity, Run: strings.ToLower(rand.Text()),
		},
		Objects: objects, Recorder: &Recorder{Client: client, Objects: objects, Namespace: options.Namespace},
		Local: NewLocals(applier, options.Log),
		Drift: source, applier: applier, releaser: releaser,
	}, nil
}

// ownKinds maps the kinds that the agent itself reads and writes, so that they need no discovery.
func ownKinds() meta.RESTMapper {
	mapper := meta.NewDefaultRESTMapper(nil)
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Namespace"), meta.RESTScopeRoot)
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Node"), meta.RESTScopeRoot)
	for _, kind := range []string{"ConfigMap", "Secret"} {
		mapper.Add(corev1.SchemeGroupVersion.WithKind(kind), meta.RESTScopeNamespace)
	}
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Event"), meta.RESTScopeNamespace)
	mapper.Add(coordinationv1.SchemeGroupVersion.WithKind("Lease"), meta.RESTScopeNamespace)
	mapper.Add(v1alpha1.GroupVersion.WithKind(v1alpha1.KindBundleDeployment), meta.RESTScopeRoot)
	mapper.Add(schema.GroupVersionKind{
		Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition",
	}, meta.RESTScopeRoot)
	return mapper
}

// ClusterKind reports whether the cluster serves a kind that is cluster-scoped; false for one that it doesn't know yet.
func (c *Cluster) ClusterKind(kind schema.GroupVersionKind) bool {
	apiVersion, name := kind.ToAPIVersionAndKind()
	mapping, err := c.applier.Kinds().Mapping(context.Background(), apply.Ref{APIVersion: apiVersion, Kind: name})
	return err == nil && !mapping.Namespaced
}

// Version is the Kubernetes version, empty when the cluster doesn't answer.
func (c *Cluster) Version() string {
	info, err := c.applier.Kinds().Discovery().ServerVersion()
	if err != nil {
		return ""
	}
	return info.GitVersion
}

// Facts counts the cluster's nodes.
func (c *Cluster) Facts(ctx context.Context) Facts { return nodeFacts(ctx, c.Objects.Client) }

// Wait returns when nothing works on the cluster any more: Helm cannot be interrupted.
func (c *Cluster) Wait() { c.releaser.Wait() }
