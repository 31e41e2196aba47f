package trustroot_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/oci/signing/trustroot"
)

var now = time.Now()

// key is somebody's.
type key struct {
	signature.SignerVerifier
	public string
}

func newKey(t testing.TB) key {
	t.Helper()
	signer, _, err := signature.NewDefaultECDSASignerVerifier()
	if err != nil {
		t.Fatal(err)
	}
	public, err := signer.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	pem, err := cryptoutils.MarshalPublicKeyToPEM(public)
	if err != nil {
		t.Fatal(err)
	}
	return key{signer, string(pem)}
}

func publics(keys ...key) []string {
	var out []string
	for _, one := range keys {
		out = append(out, one.public)
	}
	return out
}

// spec says that keys of root decide, two of them, and that release signs targets and bundle signs bundles.
func spec(version int64, root []key, release, bundle key) trustroot.Spec {
	return trustroot.Spec{
		Version: version, Expires: now.Add(time.Hour), Keys: publics(root...), Threshold: 2,
		Roles: trustroot.DefaultRoles([]string{release.public}, []string{bundle.public}),
	}
}

func draft(t testing.TB, spec trustroot.Spec) *trustroot.Draft {
	t.Helper()
	made, err := trustroot.NewDraft(spec)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func sign(t testing.TB, draft *trustroot.Draft, before *trustroot.Trust, by ...key) {
	t.Helper()
	for _, one := range by {
		if _, err := draft.Sign(one, before); err != nil {
			t.Fatal(err)
		}
	}
}

func finish(t testing.TB, draft *trustroot.Draft, before *trustroot.Trust) *trustroot.Trust {
	t.Helper()
	done, err := draft.Finish(before)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// version makes a version that enough keys of both sides signed.
func version(t testing.TB, spec trustroot.Spec, before *trustroot.Trust, by ...key) *trustroot.Trust {
	t.Helper()
	made := draft(t, spec)
	sign(t, made, before, by...)
	return finish(t, made, before)
}

func TestRotation(t *testing.T) {
	a, b, c, d, release, bundle := newKey(t), newKey(t), newKey(t), newKey(t), newKey(t), newKey(t)
	first := version(t, spec(1, []key{a, b, c}, release, bundle), nil, a, b)
	next := spec(2, []key{b, c, d}, release, bundle)
	for _, test := range []struct {
		name string
		spec trustroot.Spec
		by   []key
		want string // part of the error; none verifies
	}{
		{"by enough of both", next, []key{b, c}, ""},
		{"by two of the old and two of the new", next, []key{a, b, d}, ""},
		{"by the old ones only", spec(2, []key{c, d, bundle}, release, bundle), []key{a, b}, "by the keys of version 2"},
		{"by the new ones only", spec(2, []key{c, d, bundle}, release, bundle), []key{d, bundle}, "by the keys of version 1"},
		{"by one", next, []key{b}, "by the keys of version 1"},
		{"two versions on", spec(3, []key{b, c, d}, release, bundle), []key{b, c}, "want 2"},
		{"the same version", spec(1, []key{b, c, d}, release, bundle), []key{b, c}, "want 2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			made := draft(t, test.spec)
			sign(t, made, first, test.by...)
			_, err := made.Finish(first)
			if test.want == "" && err != nil || test.want != "" && (!errors.Is(err, trustroot.ErrInvalid) || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// Root keys stay on their machines: copies are carried, signed and combined.
func TestCarryAndCombine(t *testing.T) {
	a, b, c, release := newKey(t), newKey(t), newKey(t), newKey(t)
	made := draft(t, spec(1, []key{a, b, c}, release, release))
	carried := func(by key) *trustroot.Draft {
		documents, err := made.Documents()
		if err != nil {
			t.Fatal(err)
		}
		copied, err := trustroot.ParseDraft(documents)
		if err != nil {
			t.Fatal(err)
		}
		sign(t, copied, nil, by)
		return copied
	}
	if _, err := made.Finish(nil); err == nil {
		t.Error("a draft without signatures is finished")
	}
	for _, copied := range []*trustroot.Draft{carried(a), carried(b)} {
		if err := made.Combine(copied); err != nil {
			t.Fatal(err)
		}
	}
	if need := made.Needs(nil)[0]; need.Have != 2 || need.Threshold != 2 || len(need.Open) != 1 {
		t.Errorf("needs %+v, want 2 of 2 and one open", need)
	}
	finish(t, made, nil)

	other := spec(1, []key{a, b, c}, newKey(t), release)
	if err := made.Combine(draft(t, other)); err == nil || !strings.Contains(err.Error(), "different things") {
		t.Errorf("a copy that says something else: %v", err)
	}
	if _, err := made.Sign(newKey(t), nil); err == nil || !strings.Contains(err.Error(), "is no root key") {
		t.Errorf("a stranger signed: %v", err)
	}
}

func TestDraftsThatCannotWork(t *testing.T) {
	a, b := newKey(t), newKey(t)
	for name, change := range map[string]func(*trustroot.Spec){
		"threshold too high": func(s *trustroot.Spec) { s.Threshold = 3 },
		"no threshold":       func(s *trustroot.Spec) { s.Threshold = 0 },
		"one key twice":      func(s *trustroot.Spec) { s.Keys = publics(a, a) },
		"a role without key": func(s *trustroot.Spec) { s.Roles[0].Keys = nil },
		"a role for nothing": func(s *trustroot.Spec) { s.Roles[0].Paths = nil },
		"two stars":          func(s *trustroot.Spec) { s.Roles[0].Paths = []string{"bundles/**"} },
		"a role twice":       func(s *trustroot.Spec) { s.Roles = append(s.Roles, s.Roles[0]) },
		"no key at all":      func(s *trustroot.Spec) { s.Keys = []string{"x", "y"} },
	} {
		broken := spec(1, []key{a, b}, a, b)
		change(&broken)
		if _, err := trustroot.NewDraft(broken); err == nil {
			t.Errorf("%s: a draft was made", name)
		}
	}
}

// site is a registry with artifacts, and an agent's machine.
type site struct {
	t        *testing.T
	registry oci.Registry
	store    *memory
	versions []*trustroot.Trust
}

type memory struct{ data []byte }

func (m *memory) Load() ([]byte, error)  { return m.data, nil }
func (m *memory) Save(data []byte) error { m.data = bytes.Clone(data); return nil }

func (s *site) publish(versions ...*trustroot.Trust) {
	s.t.Helper()
	s.versions = append(s.versions, versions...)
	if _, err := trustroot.Publish(s.t.Context(), s.registry, s.versions); err != nil {
		s.t.Fatal(err)
	}
}

// verifier is the agent's, as after a restart.
func (s *site) verifier(opts trustroot.Options) *trustroot.Verifier {
	s.t.Helper()
	opts.Store = s.store
	v, err := trustroot.NewVerifier(s.versions[0].Documents().Root, opts)
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

// signed pushes something that a key signed.
func (s *site) signed(name string, by key) (oci.Repository, ocispec.Descriptor) {
	s.t.Helper()
	repo, err := s.registry.Repository(name)
	if err != nil {
		s.t.Fatal(err)
	}
	desc, _, err := oci.Push(s.t.Context(), repo, oci.Artifact{
		Type: v1alpha1.ArtifactTypeTarget, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeTarget, Data: []byte(by.public)}},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	signer, err := signing.NewSigner(s.t.Context(), by, false)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := signer.Sign(s.t.Context(), repo, desc); err != nil {
		s.t.Fatal(err)
	}
	return repo, desc
}

func newSite(t *testing.T) *site {
	return &site{t: t, registry: oci.NewMemory(), store: &memory{}}
}

func (s *site) verify(v *trustroot.Verifier, name string, by key) error {
	s.t.Helper()
	repo, desc := s.signed(name, by)
	_, err := v.Verify(s.t.Context(), repo, name, desc)
	return err
}

func wantReason(t *testing.T, what string, err error, want signing.Reason) {
	t.Helper()
	var refusal *signing.Error
	if want == "" && err != nil || want != "" && (!errors.As(err, &refusal) || refusal.Reason != want) {
		t.Errorf("%s: got %v, want reason %q", what, err, want)
	}
}

func TestRevokedKeyIsDead(t *testing.T) {
	a, b, c, release, bundle, newRelease := newKey(t), newKey(t), newKey(t), newKey(t), newKey(t), newKey(t)
	s := newSite(t)
	first := version(t, spec(1, []key{a, b, c}, release, bundle), nil, a, b)
	s.publish(first)
	v := s.verifier(trustroot.Options{Delegate: true})
	wantReason(t, "before the roles are known", s.verify(v, "targets/a", release), signing.NoRule)
	if _, err := v.Refresh(t.Context(), s.registry, 0, now); err != nil {
		t.Fatal(err)
	}
	wantReason(t, "release signs a target", s.verify(v, "targets/a", release), "")
	wantReason(t, "bundle signs a bundle", s.verify(v, "bundles/web", bundle), "")
	wantReason(t, "bundle signs a target", s.verify(v, "targets/a", bundle), signing.KeyNotTrusted)
	wantReason(t, "a repository of nobody", s.verify(v, "other/a", release), signing.NoRule)

	s.publish(version(t, spec(2, []key{a, b, c}, newRelease, bundle), first, a, c))
	if _, err := v.Refresh(t.Context(), s.registry, 0, now); err != nil {
		t.Fatal(err)
	}
	wantReason(t, "the revoked key signs a target", s.verify(v, "targets/a", release), signing.KeyNotTrusted)
	wantReason(t, "the new key signs a target", s.verify(v, "targets/a", newRelease), "")
	after := s.verifier(trustroot.Options{Delegate: true})
	if after.Trust().Version() != 2 {
		t.Errorf("after a restart version %d is in force, want 2", after.Trust().Version())
	}
	wantReason(t, "the revoked key after a restart", s.verify(after, "targets/a", release), signing.KeyNotTrusted)
}

// An agent that was off for five rotations, in which every root key was replaced, catches up in order; also from a medium.
func TestCatchUp(t *testing.T) {
	s := newSite(t)
	roots := []key{newKey(t), newKey(t)}
	release := newKey(t)
	before := version(t, spec(1, roots, release, release), nil, roots...)
	s.publish(before)
	for n := int64(2); n <= 6; n++ {
		next := []key{roots[1], newKey(t)}
		expiring := spec(n, next, release, release)
		expiring.Expires = now.Add(-time.Duration(6-n) * time.Hour).Add(time.Minute) // all but the last have expired
		made := version(t, expiring, before, roots[0], roots[1], next[1])
		s.publish(made)
		roots, before = next, made
	}
	medium, err := oci.OpenLayout(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trustroot.Publish(t.Context(), medium, s.versions); err != nil {
		t.Fatal(err)
	}
	for name, registry := range map[string]oci.Registry{"registry": s.registry, "medium": medium} {
		s.store = &memory{}
		v := s.verifier(trustroot.Options{Delegate: true})
		got, err := v.Refresh(t.Context(), registry, 0, now)
		if err != nil || got != 6 {
			t.Errorf("%s: version %d and %v, want 6", name, got, err)
		}
	}
	fetched, err := trustroot.Fetch(t.Context(), s.registry)
	if err != nil || len(fetched) != 6 {
		t.Errorf("fetched %d versions and %v, want 6", len(fetched), err)
	}
}

func TestRefreshRefuses(t *testing.T) {
	a, b, release, stranger := newKey(t), newKey(t), newKey(t), newKey(t)
	first := version(t, spec(1, []key{a, b}, release, release), nil, a, b)
	second := version(t, spec(2, []key{a, b}, release, release), first, a, b)
	third := version(t, spec(3, []key{a, b}, release, release), second, a, b)
	forged := version(t, spec(1, []key{stranger, a}, stranger, stranger), nil, stranger, a)
	forgedNext := version(t, spec(2, []key{stranger, a}, stranger, stranger), forged, stranger, a)
	push := func(s *site, tag string, documents trustroot.Documents) {
		repo, _ := s.registry.Repository(v1alpha1.RepositoryTrust)
		_, _, err := oci.Push(t.Context(), repo, oci.Artifact{Type: v1alpha1.ArtifactTypeTrust, Layers: []oci.Blob{
			{MediaType: v1alpha1.MediaTypeTrustRoot, Data: documents.Root}, {MediaType: v1alpha1.MediaTypeTrustTargets, Data: documents.Targets},
		}}, tag)
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name    string
		publish func(s *site)
		known   int64
		at      time.Time
		want    error
	}{
		{name: "nothing new", publish: func(*site) {}, at: now},
		{name: "expired", publish: func(*site) {}, at: now.Add(2 * time.Hour), want: trustroot.ErrExpired},
		{name: "older than the cluster remembers", publish: func(*site) {}, known: 2, at: now, want: trustroot.ErrRollback},
		{name: "a gap", publish: func(s *site) { push(s, "v3", third.Documents()); push(s, "current", third.Documents()) }, at: now, want: trustroot.ErrIncomplete},
		{name: "a stranger's next", publish: func(s *site) { push(s, "v2", forgedNext.Documents()) }, at: now, want: trustroot.ErrInvalid},
		{name: "another's targets.json", publish: func(s *site) {
			push(s, "v2", trustroot.Documents{Root: second.Documents().Root, Targets: forgedNext.Documents().Targets})
		}, at: now, want: trustroot.ErrInvalid},
		{name: "an older targets.json", publish: func(s *site) {
			push(s, "v2", trustroot.Documents{Root: second.Documents().Root, Targets: first.Documents().Targets})
		}, at: now, want: trustroot.ErrInvalid},
		{name: "the first again", publish: func(s *site) { push(s, "v2", first.Documents()) }, at: now, want: trustroot.ErrInvalid},
		{name: "the third as second", publish: func(s *site) { push(s, "v2", third.Documents()) }, at: now, want: trustroot.ErrInvalid},
		{name: "no JSON", publish: func(s *site) { push(s, "v2", trustroot.Documents{Root: []byte("x"), Targets: []byte("y")}) }, at: now, want: trustroot.ErrInvalid},
		{name: "endless", publish: func(s *site) {
			push(s, "v2", trustroot.Documents{Root: bytes.Repeat([]byte(" "), trustroot.MaxDocument+1), Targets: []byte("y")})
		}, at: now, want: oci.ErrTooLarge},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newSite(t)
			s.publish(first)
			v := s.verifier(trustroot.Options{Delegate: true})
			if _, err := v.Refresh(t.Context(), s.registry, 0, now); err != nil {
				t.Fatal(err)
			}
			kept := string(s.store.data)
			test.publish(s)
			version, err := v.Refresh(t.Context(), s.registry, test.known, test.at)
			if !errors.Is(err, test.want) || version != 1 {
				t.Errorf("version %d and %v, want 1 and %v", version, err, test.want)
			}
			if string(s.store.data) != kept {
				t.Error("what was refused is kept")
			}
			wantReason(t, "what was trusted before", s.verify(v, "targets/a", release), "")
		})
	}
}

// The local policy is the floor: without a delegation both must be satisfied.
func TestFloor(t *testing.T) {
	a, b, release, bundle, local := newKey(t), newKey(t), newKey(t), newKey(t), newKey(t)
	s := newSite(t)
	s.publish(version(t, spec(1, []key{a, b}, release, bundle), nil, a, b))
	floor, err := signing.NewVerifier(v1alpha1.TrustPolicy{Spec: v1alpha1.TrustPolicySpec{Rules: []v1alpha1.TrustRule{
		{Match: "targets/**", Signers: v1alpha1.Signers{Keys: []v1alpha1.PublicKey{{Name: "release", PublicKey: release.public}}}},
		{Match: "bundles/**", Signers: v1alpha1.Signers{Keys: []v1alpha1.PublicKey{{Name: "local", PublicKey: local.public}}}},
		{Match: "extra/**", Signers: v1alpha1.Signers{Keys: []v1alpha1.PublicKey{{Name: "local", PublicKey: local.public}}}},
	}}}, signing.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		delegate   bool
		repository string
		by         key
		want       signing.Reason
	}{
		{false, "targets/a", release, ""},
		{false, "bundles/web", bundle, signing.KeyNotTrusted}, // not by the floor
		{false, "bundles/web", local, signing.KeyNotTrusted},  // not by the roles
		{false, "extra/a", local, signing.NoRule},
		{true, "bundles/web", bundle, ""},
		{true, "bundles/web", local, signing.KeyNotTrusted},
		{true, "extra/a", local, ""},
	} {
		v := s.verifier(trustroot.Options{Delegate: test.delegate, Local: floor})
		if _, err := v.Refresh(t.Context(), s.registry, 0, now); err != nil {
			t.Fatal(err)
		}
		wantReason(t, fmt.Sprintf("delegate %v, %s", test.delegate, test.repository), s.verify(v, test.repository, test.by), test.want)
	}
	if _, err := trustroot.NewVerifier(s.versions[0].Documents().Root, trustroot.Options{}); err == nil {
		t.Error("neither rules nor a delegation: that is no policy")
	}
}

func TestPublishKeepsWhatAgentsFollowed(t *testing.T) {
	a, b, release := newKey(t), newKey(t), newKey(t)
	s := newSite(t)
	s.publish(version(t, spec(1, []key{a, b}, release, release), nil, a, b))
	other := version(t, spec(1, []key{a, b}, newKey(t), release), nil, a, b)
	if _, err := trustroot.Publish(t.Context(), s.registry, []*trustroot.Trust{other}); err == nil || !strings.Contains(err.Error(), "next version") {
		t.Errorf("another version 1 was published: %v", err)
	}
}

func FuzzTrust(f *testing.F) {
	a, b, release := newKey(f), newKey(f), newKey(f)
	first := version(f, spec(1, []key{a, b}, release, release), nil, a, b)
	second := version(f, spec(2, []key{a, b}, release, release), first, a, b)
	f.Add(second.Documents().Root, second.Documents().Targets)
	f.Add([]byte(`{"signed":{"_type":"root","version":2,"roles":{"root":null}},"signatures":[]}`), []byte(`{"signed":{"_type":"targets"}}`))
	f.Fuzz(func(t *testing.T, root, targets []byte) {
		_, _ = trustroot.Pin(root)
		_, _ = trustroot.ParseDraft(trustroot.Documents{Root: root, Targets: targets})
		next, err := first.Next(trustroot.Documents{Root: root, Targets: targets})
		if err == nil && next.Version() != 2 {
			t.Errorf("version %d follows version 1", next.Version())
		}
	})
}

// Verifying goes on while keys rotate: each answer is that of one version or the next, and the revoked key is dead for
// everybody from the moment at which the rotation was followed.
func TestVerifyWhileKeysRotate(t *testing.T) {
	const rotations = 8
	s := newSite(t)
	roots := []key{newKey(t), newKey(t)}
	releases := make([]key, rotations+1)
	for i := range releases {
		releases[i] = newKey(t)
	}
	first := version(t, spec(1, roots, releases[0], releases[0]), nil, roots...)
	s.publish(first)
	v := s.verifier(trustroot.Options{Delegate: true})
	if _, err := v.Refresh(t.Context(), s.registry, 0, now); err != nil {
		t.Fatal(err)
	}
	repo, old := s.signed("targets/a", releases[0])
	var followed atomic.Bool
	var readers sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		readers.Go(func() {
			for {
				dead := followed.Load()
				_, err := v.Verify(t.Context(), repo, "targets/a", old)
				var refusal *signing.Error
				switch {
				case err != nil && !errors.As(err, &refusal):
					t.Errorf("verify: %v", err)
				case dead && err == nil:
					t.Error("a revoked key counts")
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	before := first
	for i := 1; i <= rotations; i++ {
		before = version(t, spec(int64(i+1), roots, releases[i], releases[i]), before, roots...)
		s.publish(before)
		if got, err := v.Refresh(t.Context(), s.registry, 0, now); err != nil || got != int64(i+1) {
			t.Errorf("rotation %d: version %d (%v)", i, got, err)
		}
		followed.Store(true)
	}
	close(stop)
	readers.Wait()
	wantReason(t, "the newest key", s.verify(v, "targets/a", releases[rotations]), "")
}
