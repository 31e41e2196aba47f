package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent/apply"
)

// Locals reads ConfigMaps and Secrets of the cluster as the bundles that name them may, and watches those that are
// followed: each by its name, metadata only. Contents are read when a bundle is applied and kept nowhere.
type Locals struct {
	applier *apply.Applier
	log     *slog.Logger
	changes chan LocalRef
	follow  chan []LocalRef
	pause   time.Duration // before a broken watch is opened again

	mu      sync.Mutex
	read    map[LocalRef]revision
	clients map[string]client.WithWatch // by user
}

// revision of an object: empty when it was not there.
type revision struct {
	uid     types.UID
	version string
}

// NewLocals sends nothing before it is used.
func NewLocals(applier *apply.Applier, log *slog.Logger) *Locals {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Locals{
		applier: applier, log: log, changes: make(chan LocalRef), follow: make(chan []LocalRef, 1), pause: watchPause,
		read: map[LocalRef]revision{}, clients: map[string]client.WithWatch{},
	}
}

var _ LocalSource = (*Locals)(nil)

// Read returns the object, and remembers its revision.
func (l *Locals) Read(ctx context.Context, ref LocalRef) (*unstructured.Unstructured, error) {
	bundle := apply.Bundle{Namespace: ref.Namespace, Options: v1alpha1.DeployOptions{ServiceAccount: ref.ServiceAccount}}
	object, err := l.applier.Get(ctx, bundle, apply.Ref{APIVersion: "v1", Kind: ref.Kind, Namespace: ref.Namespace, Name: ref.Name})
	switch {
	case err == nil:
		l.note(ref, revision{object.GetUID(), object.GetResourceVersion()})
	case apierrors.IsNotFound(err):
		l.note(ref, revision{})
	}
	return object, err
}

// note remembers a revision, and reports whether it is another one than was known.
func (l *Locals) note(ref LocalRef, now revision) (changed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before, known := l.read[ref]
	l.read[ref] = now
	return known && before != now
}

// Changes tells what is no longer as it was read.
func (l *Locals) Changes() <-chan LocalRef { return l.changes }

// Follow replaces what is watched. It doesn't block.
func (l *Locals) Follow(refs []LocalRef) {
	for {
		select {
		case l.follow <- refs:
			return
		case <-l.follow: // nobody looked at the one before
		}
	}
}

// Run watches what is followed until ctx ends.
func (l *Locals) Run(ctx context.Context) {
	var watches sync.WaitGroup
	defer watches.Wait()
	running := map[LocalRef]context.CancelFunc{}
	for {
		var refs []LocalRef
		select {
		case <-ctx.Done():
			return
		case refs = <-l.follow:
		}
		wanted := make(map[LocalRef]bool, len(refs))
		for _, ref := range refs {
			wanted[ref] = true
			if running[ref] != nil {
				continue
			}
			one, cancel := context.WithCancel(ctx)
			running[ref] = cancel
			watches.Go(func() { l.keep(one, ref) })
		}
		for ref, cancel := range running {
			if !wanted[ref] {
				cancel()
				delete(running, ref)
			}
		}
	}
}

// keep watches one object until ctx ends.
func (l *Locals) keep(ctx context.Context, ref LocalRef) {
	warned := false
	for ctx.Err() == nil {
		err := l.watch(ctx, ref)
		wait := l.pause
		if apierrors.IsForbidden(err) {
			wait = longPause
			if !warned {
				warned = true
				l.log.Warn("a change will not be noticed: it may not be watched", "stage", StageApply, "object", ref.String(),
					"serviceAccount", ref.ServiceAccount, "mend", "allow get and watch of it")
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(jitter(wait)):
		}
	}
}

// watch follows one object until the server ends it, which it does about every half an hour.
func (l *Locals) watch(ctx context.Context, ref LocalRef) error {
	reader, err := l.client(ref)
	if err != nil {
		return err
	}
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(ref.Kind + "List"))
	byName := &client.ListOptions{
		Namespace: ref.Namespace, FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, ref.Name),
	}
	if err := reader.List(ctx, list, byName); err != nil {
		return err
	}
	now := revision{}
	if len(list.Items) > 0 {
		now = revision{list.Items[0].UID, list.Items[0].ResourceVersion}
	}
	l.tell(ctx, ref, now)
	byName.Raw = &metav1.ListOptions{ResourceVersion: list.ResourceVersion}
	events, err := reader.Watch(ctx, list, byName)
	if err != nil {
		return err
	}
	defer events.Stop()
	for event := range events.ResultChan() {
		object, is := event.Object.(*metav1.PartialObjectMetadata)
		if !is {
			return nil // it broke; another one starts with the object as it is then
		}
		now := revision{object.UID, object.ResourceVersion}
		if event.Type == watch.Deleted {
			now = revision{}
		}
		l.tell(ctx, ref, now)
	}
	return nil
}

// tell tells of a revision that is not the one that was read.
func (l *Locals) tell(ctx context.Context, ref LocalRef, now revision) {
	if !l.note(ref, now) {
		return
	}
	select {
	case l.changes <- ref:
	case <-ctx.Done():
	}
}

// client returns the client that reads as the ref's user.
func (l *Locals) client(ref LocalRef) (client.WithWatch, error) {
	user := ""
	if ref.ServiceAccount != "" {
		user = "system:serviceaccount:" + ref.Namespace + ":" + ref.ServiceAccount
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if known := l.clients[user]; known != nil {
		return known, nil
	}
	config, options := rest.CopyConfig(l.applier.Config()), client.Options{Mapper: ownKinds(), HTTPClient: l.applier.HTTPClient()}
	if user != "" {
		config.Impersonate = rest.ImpersonationConfig{UserName: user}
		options.HTTPClient = nil // it carries the identity
	}
	made, err := client.NewWithWatch(config, options)
	if err != nil {
		return nil, err
	}
	l.clients[user] = made
	return made, nil
}
