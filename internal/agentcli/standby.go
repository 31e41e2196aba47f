package agentcli

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent"
)

// openState takes the state folder. A standby waits for the agent that holds it; probes are answered meanwhile, or the
// kubelet would kill it.
func openState(ctx context.Context, spec v1alpha1.AgentSpec, patient bool, log *slog.Logger) (*agent.State, error) {
	if !patient {
		return agent.OpenState(spec.StateDir)
	}
	waiting, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	e := &endpoints{}
	state, err := agent.AwaitState(waiting, spec.StateDir, func(holder error) {
		log.Info("standing by", "stage", agent.StageState, "for", holder)
		if spec.Listen == "" {
			return
		}
		answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("standing by\n")) })
		mux := http.NewServeMux()
		mux.Handle("GET /healthz", answer)
		mux.Handle("GET /readyz", answer)
		if err := e.listen(spec.Listen, "spec.listen", mux, fail); err != nil {
			fail(err)
		}
	})
	if closing := e.close(); closing != nil || err != nil {
		err = errors.Join(err, closing)
		if state != nil {
			err = errors.Join(err, state.Close())
		}
		return nil, err
	}
	return state, nil
}
