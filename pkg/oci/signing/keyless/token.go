package keyless

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/sigstore/cosign/v2/pkg/providers"
	_ "github.com/sigstore/cosign/v2/pkg/providers/envvar"     // SIGSTORE_ID_TOKEN, as GitLab sets it
	_ "github.com/sigstore/cosign/v2/pkg/providers/filesystem" // a projected service account token
	_ "github.com/sigstore/cosign/v2/pkg/providers/github"     // GitHub Actions with id-token: write
)

// audience of tokens that Fulcio takes.
const audience = "sigstore"

// Token returns a source of tokens: the text itself, a file that holds one, or, when it is empty, what the CI provides.
func Token(given string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		token := strings.TrimSpace(given)
		if token == "" {
			if !providers.Enabled(ctx) {
				return "", errors.New("none is given and this is no CI that provides one; pass --identity-token, or set SIGSTORE_ID_TOKEN (GitHub Actions needs permissions: id-token: write)")
			}
			found, err := providers.Provide(ctx, audience)
			if err != nil {
				return "", fmt.Errorf("ask the CI: %w", err)
			}
			token = found
		} else if strings.Count(token, ".") != 2 {
			data, err := os.ReadFile(token)
			if err != nil {
				return "", fmt.Errorf("it is neither a token nor a file: %w", err)
			}
			token = strings.TrimSpace(string(data))
		}
		if end := Expiry(token); !end.IsZero() && time.Now().After(end) {
			return "", fmt.Errorf("it ended at %s; get a new one", end.UTC().Format(time.RFC3339))
		}
		return token, nil
	}
}
