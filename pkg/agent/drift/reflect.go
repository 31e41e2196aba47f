package drift

import (
	"context"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent/apply"
)

// minWatch is how long the server is asked to keep a watch open, at least. client-go's five minutes would be a request
// per kind every few minutes from a cluster where nothing happens.
const minWatch = 4 * time.Hour

// reflector keeps the table of one kind's objects up to date while it runs: client-go's lists, watches, and starts anew
// with growing pauses when either breaks.
func (w *Watcher) reflector(mapping apply.Mapping, whole bool) *cache.Reflector {
	var source *cache.ListWatch
	var example runtime.Object
	if whole {
		client := w.dynamic.Resource(mapping.GroupVersionResource)
		source = selected(client.List, client.Watch)
		object := &unstructured.Unstructured{}
		object.SetGroupVersionKind(mapping.GroupVersionKind())
		example = object
	} else {
		client := w.metadata.Resource(mapping.GroupVersionResource)
		source = selected(client.List, client.Watch)
		example = &metav1.PartialObjectMetadata{}
	}
	silent := logr.Discard()
	return cache.NewReflectorWithOptions(source, example, &sink{watcher: w, mapping: mapping, whole: whole},
		cache.ReflectorOptions{Logger: &silent, Name: mapping.Resource, MinWatchTimeout: minWatch})
}

// selected lists and watches what is ours.
func selected[L runtime.Object](list func(context.Context, metav1.ListOptions) (L, error),
	open func(context.Context, metav1.ListOptions) (watch.Interface, error),
) *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.LabelSelector = v1alpha1.LabelBundle
			return list(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.LabelSelector = v1alpha1.LabelBundle
			return open(ctx, options)
		},
	}
}

// sink is where a reflector puts objects: it looks at them and keeps none.
type sink struct {
	watcher *Watcher
	mapping apply.Mapping
	whole   bool
}

var _ cache.ReflectorStore = (*sink)(nil)

func (s *sink) Add(object any) error { return s.Update(object) }

func (s *sink) Update(object any) error {
	one, err := s.object(object)
	if err == nil {
		s.watcher.note(s.watcher.applier.Observe(one, s.whole))
	}
	return err
}

func (s *sink) Delete(object any) error {
	one, err := s.object(object)
	if err == nil {
		s.vanished(apply.RefOf(one), one.GetResourceVersion())
	}
	return err
}

func (s *sink) vanished(ref apply.Ref, resourceVersion string) {
	if seen, ok := s.watcher.applier.Vanished(ref, resourceVersion); ok {
		s.watcher.note(seen)
	}
}

// Replace is told all objects: after the start, and after a watch broke for long.
func (s *sink) Replace(objects []any, resourceVersion string) error {
	kind := s.mapping.GroupVersionKind().GroupKind()
	known := s.watcher.applier.Known(kind)
	there := make(map[apply.ID]bool, len(objects))
	for _, object := range objects {
		one, err := s.object(object)
		if err != nil {
			return err
		}
		there[apply.RefOf(one).ID()] = true
		if err := s.Update(one); err != nil {
			return err
		}
	}
	for _, ref := range known {
		if !there[ref.ID()] {
			s.vanished(ref, resourceVersion)
		}
	}
	s.watcher.applier.Watched(kind, true)
	return nil
}

func (s *sink) Resync() error { return nil }

// object turns what a client decoded into the one form that the table takes. Metadata comes without its kind.
func (s *sink) object(from any) (*unstructured.Unstructured, error) {
	switch from := from.(type) {
	case *unstructured.Unstructured:
		return from, nil
	case *metav1.PartialObjectMetadata:
		fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(from)
		if err != nil {
			return nil, fmt.Errorf("watch %s: %w", s.mapping.Resource, err)
		}
		object := &unstructured.Unstructured{Object: fields}
		object.SetGroupVersionKind(s.mapping.GroupVersionKind())
		return object, nil
	}
	return nil, fmt.Errorf("watch %s: unexpected %T", s.mapping.Resource, from)
}
