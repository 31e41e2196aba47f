package apply

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// page is how many objects one list request asks for.
const page = 500

// asMetadata asks the server for metadata only.
const asMetadata = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"

// client sends the requests of one identity. Unlike client-go's dynamic client it says whether an apply created the
// object, which saves a read per object.
type client struct {
	rest  rest.Interface
	slots chan struct{} // bounds requests in flight, over all identities
}

// client returns the client for the bundle's identity: the agent's own, or its service account.
func (a *Applier) client(bundle Bundle) (*client, error) {
	user := ""
	if bundle.Options.ServiceAccount != "" {
		user = "system:serviceaccount:" + bundle.namespace() + ":" + bundle.Options.ServiceAccount
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if known, ok := a.clients[user]; ok {
		return known, nil
	}
	config, httpClient := rest.CopyConfig(a.config), a.http
	config.NegotiatedSerializer = serializer.WithoutConversionCodecFactory{CodecFactory: scheme.Codecs}
	if user != "" {
		config.Impersonate = rest.ImpersonationConfig{UserName: user}
		var err error
		if httpClient, err = rest.HTTPClientFor(config); err != nil {
			return nil, fmt.Errorf("impersonate %s: %w", user, err)
		}
	}
	restClient, err := rest.UnversionedRESTClientForConfigAndClient(config, httpClient)
	if err != nil {
		return nil, fmt.Errorf("reach the cluster: %w", err)
	}
	a.clients[user] = &client{rest: restClient, slots: a.slots}
	return a.clients[user], nil
}

// do sends the request when a slot is free.
func (c *client) do(ctx context.Context, request *rest.Request) (rest.Result, error) {
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return rest.Result{}, ctx.Err()
	}
	defer func() { <-c.slots }()
	result := request.Do(ctx)
	return result, result.Error()
}

func address(m Mapping, namespace, name string) []string {
	segments := []string{"/apis", m.Group, m.Version}
	if m.Group == "" {
		segments = []string{"/api", m.Version}
	}
	if m.Namespaced && namespace != "" {
		segments = append(segments, "namespaces", url.PathEscape(namespace))
	}
	segments = append(segments, m.Resource)
	if name != "" {
		segments = append(segments, url.PathEscape(name))
	}
	return segments
}

func decode(result rest.Result) (*unstructured.Unstructured, error) {
	raw, err := result.Raw()
	if err != nil {
		return nil, err
	}
	object := &unstructured.Unstructured{}
	if err := object.UnmarshalJSON(raw); err != nil {
		return nil, fmt.Errorf("read the server's answer: %w", err)
	}
	return object, nil
}

// applyOptions of one server-side apply.
type applyOptions struct {
	manager string
	dryRun  bool
}

// apply sends a server-side apply that takes fields from other managers.
func (c *client) apply(ctx context.Context, m Mapping, object *unstructured.Unstructured, options applyOptions) (live *unstructured.Unstructured, created bool, err error) {
	body, err := object.MarshalJSON()
	if err != nil {
		return nil, false, fmt.Errorf("encode: %w", err)
	}
	request := c.rest.Patch(types.ApplyPatchType).AbsPath(address(m, object.GetNamespace(), object.GetName())...).
		Param("fieldManager", options.manager).Param("force", "true").Body(body)
	if options.dryRun {
		request.Param("dryRun", metav1.DryRunAll)
	}
	result, err := c.do(ctx, request)
	if err != nil {
		return nil, false, err
	}
	result.WasCreated(&created)
	live, err = decode(result)
	return live, created, err
}

// create posts an object; a dry run when dryRun is set.
func (c *client) create(ctx context.Context, m Mapping, object *unstructured.Unstructured, dryRun bool) (*unstructured.Unstructured, error) {
	body, err := object.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	request := c.rest.Post().AbsPath(address(m, object.GetNamespace(), "")...).
		Param("fieldManager", v1alpha1.FieldManager).SetHeader("Content-Type", "application/json").Body(body)
	if dryRun {
		request.Param("dryRun", metav1.DryRunAll)
	}
	result, err := c.do(ctx, request)
	if err != nil {
		return nil, err
	}
	return decode(result)
}

// get reads an object, or only its metadata.
func (c *client) get(ctx context.Context, m Mapping, namespace, name string, metadata bool) (*unstructured.Unstructured, error) {
	request := c.rest.Get().AbsPath(address(m, namespace, name)...)
	if metadata {
		request.SetHeader("Accept", asMetadata)
	}
	result, err := c.do(ctx, request)
	if err != nil {
		return nil, err
	}
	return decode(result)
}

// selection says which objects to list, by selectors; everything when it is empty.
type selection struct{ labels, fields string }

// list calls each for every object that the selector matches, page by page; metadata only when asked. most bounds
// the objects read, no bound when zero. version is the resource version of what was read.
func (c *client) list(ctx context.Context, m Mapping, namespace string, of selection, metadata bool, most int, each func(*unstructured.Unstructured)) (version string, err error) {
	for next, count := "", 0; ; {
		request := c.rest.Get().AbsPath(address(m, namespace, "")...).Param("limit", fmt.Sprint(page))
		if of.labels != "" {
			request.Param("labelSelector", of.labels)
		}
		if of.fields != "" {
			request.Param("fieldSelector", of.fields)
		}
		if next != "" {
			request.Param("continue", next)
		}
		if metadata {
			request.SetHeader("Accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")
		}
		result, err := c.do(ctx, request)
		if err != nil {
			return "", err
		}
		raw, err := result.Raw()
		if err != nil {
			return "", err
		}
		var list struct {
			Metadata metav1.ListMeta  `json:"metadata"`
			Items    []map[string]any `json:"items"`
		}
		if err := json.Unmarshal(raw, &list); err != nil {
			return "", fmt.Errorf("read the server's answer: %w", err)
		}
		for _, item := range list.Items {
			object := &unstructured.Unstructured{Object: item}
			object.SetGroupVersionKind(m.GroupVersionKind())
			each(object)
			if count++; most > 0 && count >= most {
				return list.Metadata.ResourceVersion, nil
			}
		}
		if next = list.Metadata.Continue; next == "" {
			return list.Metadata.ResourceVersion, nil
		}
	}
}

// delete removes the object if it still has that uid. gone is false when finalizers hold it.
func (c *client) delete(ctx context.Context, m Mapping, namespace, name string, uid types.UID) (gone bool, err error) {
	policy := metav1.DeletePropagationBackground
	options := metav1.DeleteOptions{
		TypeMeta:          metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"},
		PropagationPolicy: &policy,
	}
	if uid != "" {
		options.Preconditions = &metav1.Preconditions{UID: &uid}
	}
	body, err := json.Marshal(options)
	if err != nil {
		return false, fmt.Errorf("encode: %w", err)
	}
	result, err := c.do(ctx, c.rest.Delete().AbsPath(address(m, namespace, name)...).
		SetHeader("Content-Type", "application/json").Body(body))
	if err != nil {
		return false, err
	}
	answer, err := decode(result)
	if err != nil {
		return false, err
	}
	return answer.GetDeletionTimestamp() == nil, nil
}

// patch sends a JSON patch.
func (c *client) patch(ctx context.Context, m Mapping, namespace, name string, body []byte, manager string) (*unstructured.Unstructured, error) {
	result, err := c.do(ctx, c.rest.Patch(types.JSONPatchType).AbsPath(address(m, namespace, name)...).
		Param("fieldManager", manager).Body(body))
	if err != nil {
		return nil, err
	}
	return decode(result)
}
