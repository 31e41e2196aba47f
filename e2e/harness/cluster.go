package harness

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/controlplane"
)

// Cluster is a real cluster, with a client that may do everything.
type Cluster struct {
	*controlplane.Cluster
	Client client.Client
}

// quietClients keeps controller-runtime from complaining that nobody told it where to log.
var quietClients = sync.OnceFunc(func() { log.SetLogger(logr.Discard()) })

// NewCluster starts a control plane.
func (s *Site) NewCluster(ctx context.Context, name string) (*Cluster, error) {
	quietClients()
	started, err := s.Plane.Cluster(ctx, name)
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		clientgoscheme.AddToScheme, apiextensionsv1.AddToScheme, v1alpha1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	c, err := client.New(started.Config(), client.Options{Scheme: scheme})
	if err != nil {
		return nil, err
	}
	return &Cluster{Cluster: started, Client: c}, nil
}

// Bundles returns the BundleDeployments by name; none before the agent has made the CRD.
func (c *Cluster) Bundles(ctx context.Context) (map[string]v1alpha1.BundleDeployment, error) {
	var list v1alpha1.BundleDeploymentList
	err := c.Client.List(ctx, &list)
	if err != nil && !meta.IsNoMatchError(err) && !apierrors.IsNotFound(err) {
		return nil, err
	}
	bundles := make(map[string]v1alpha1.BundleDeployment, len(list.Items))
	for _, item := range list.Items {
		bundles[item.Name] = item
	}
	return bundles, nil
}

// WaitReady waits until exactly these bundles are there and every one is Ready.
func (c *Cluster) WaitReady(ctx context.Context, names ...string) error {
	return Until(ctx, fmt.Sprintf("bundles on %s", c.Name), func(ctx context.Context) error {
		bundles, err := c.Bundles(ctx)
		if err != nil {
			return err
		}
		var errs []error
		for _, name := range names {
			if bundle, ok := bundles[name]; !ok {
				errs = append(errs, fmt.Errorf("%s is absent", name))
			} else if err := ready(bundle); err != nil {
				errs = append(errs, err)
			}
		}
		for name := range bundles {
			if !slices.Contains(names, name) {
				errs = append(errs, fmt.Errorf("%s is there and should not be", name))
			}
		}
		return errors.Join(errs...)
	})
}

func ready(bundle v1alpha1.BundleDeployment) error {
	condition := meta.FindStatusCondition(bundle.Status.Conditions, v1alpha1.ConditionReady)
	switch {
	case condition == nil:
		return fmt.Errorf("%s has no Ready condition", bundle.Name)
	case condition.Status != "True" || bundle.Status.State != v1alpha1.StateReady:
		return fmt.Errorf("%s is %s: %s %s", bundle.Name, bundle.Status.State, condition.Reason, condition.Message)
	case bundle.Status.ObservedGeneration != bundle.Generation:
		return fmt.Errorf("%s: its status is of an older generation", bundle.Name)
	}
	return nil
}

// UID returns the object's identity: an object that was deleted and came back has another.
func (c *Cluster) UID(ctx context.Context, object client.Object, namespace, name string) (types.UID, error) {
	err := c.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, object)
	return object.GetUID(), err
}

// WaitRecreated deletes an object and waits until it is back.
func (c *Cluster) WaitRecreated(ctx context.Context, object client.Object, namespace, name string) error {
	before, err := c.UID(ctx, object, namespace, name)
	if err != nil {
		return err
	}
	if err := c.Client.Delete(ctx, object); err != nil {
		return err
	}
	return Until(ctx, fmt.Sprintf("%s/%s on %s to come back", namespace, name, c.Name), func(ctx context.Context) error {
		after, err := c.UID(ctx, object, namespace, name)
		if err == nil && (after == before || object.GetDeletionTimestamp() != nil) {
			err = errors.New("it is still the old one")
		}
		return err
	})
}

// WaitGone waits until an object is absent.
func (c *Cluster) WaitGone(ctx context.Context, object client.Object, namespace, name string) error {
	return Until(ctx, fmt.Sprintf("%s/%s on %s to be gone", namespace, name, c.Name), func(ctx context.Context) error {
		if _, err := c.UID(ctx, object, namespace, name); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there (%w)", err)
		}
		return nil
	})
}

// Versions returns the resource version of every Deployment and ConfigMap, and of the BundleDeployments what was asked
// for and applied, for their status tells of refusals too: two equal answers mean that nothing was applied in between.
func (c *Cluster) Versions(ctx context.Context) (map[string]string, error) {
	versions := map[string]string{}
	lists := map[string]client.ObjectList{
		"BundleDeployment": &v1alpha1.BundleDeploymentList{},
		"Deployment":       &appsv1.DeploymentList{},
		"ConfigMap":        &corev1.ConfigMapList{},
	}
	for kind, list := range lists {
		if err := c.Client.List(ctx, list); err != nil {
			return nil, err
		}
		err := meta.EachListItem(list, func(item runtime.Object) error {
			object, err := meta.Accessor(item)
			if err != nil {
				return err
			}
			version := object.GetResourceVersion()
			if deployment, ok := item.(*v1alpha1.BundleDeployment); ok {
				version = fmt.Sprintf("%d %s", deployment.Generation, deployment.Status.AppliedDigest)
			}
			versions[kind+" "+object.GetNamespace()+"/"+object.GetName()] = version
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return versions, nil
}
