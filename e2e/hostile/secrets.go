package hostile

import (
	"strings"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent"
	"pinnace.dev/pinnace/pkg/sealed"
)

// sealedFor publishes a target whose web has a value that was sealed to this cluster's key for something.
func sealedFor(binding sealed.Binding, change func(*v1alpha1.TargetBundle)) func(*World) {
	return func(w *World) {
		file, recipient, err := sealed.GenerateIdentity()
		if err != nil {
			panic(err)
		}
		identities := must(sealed.ParseIdentities(file))
		w.change = func(config *agent.Config) {
			config.Identities = func() (sealed.Identities, error) { return identities, nil }
		}
		web := w.bundleOf("web", by(w.keys.bundle), map[string][]byte{"a.yaml": []byte(configMap("web", evil+"${SECRET}"))})
		web.Variables = map[string]string{"SECRET": "sealed"}
		data := must(sealed.Seal(must(sealed.ParseRecipients([]string{recipient})), binding, []any{"secret"}))
		web.Sealed = []v1alpha1.SealedValues{{Paths: []string{"/variables/SECRET"}, Data: data}}
		if change != nil {
			change(&web)
		}
		w.publish(w.next(web))
	}
}

func secretAttacks() []Attack {
	notOpened := reasons(agent.ReasonNotOpened)
	return []Attack{
		{Name: "another cluster's secret", Bundle: true, Want: notOpened, Prepare: sealedFor(sealed.Binding{Cluster: "factory-08"}, nil)},
		{Name: "another namespace's secret", Bundle: true, Want: notOpened, Prepare: sealedFor(sealed.Binding{Namespace: "bank"}, nil)},
		{Name: "another bundle's secret", Bundle: true, Want: notOpened, Prepare: sealedFor(sealed.Binding{Name: "db"}, nil)},
		{Name: "secret put where there is no place for one", Bundle: true, Want: notOpened, Prepare: sealedFor(sealed.Binding{}, func(b *v1alpha1.TargetBundle) {
			b.Sealed[0].Paths[0] = "/serviceAccount"
		})},
		{Name: "secret of megabytes", Bundle: true, Want: notOpened, Prepare: sealedFor(sealed.Binding{}, func(b *v1alpha1.TargetBundle) {
			b.Sealed[0].Data = append(b.Sealed[0].Data, []byte(strings.Repeat("x", sealed.MaxData))...)
		})},
		{Name: "changed secret", Bundle: true, Want: notOpened, Prepare: sealedFor(sealed.Binding{}, func(b *v1alpha1.TargetBundle) {
			b.Sealed[0].Data[len(b.Sealed[0].Data)-1] ^= 1
		})},
	}
}
