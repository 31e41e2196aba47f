package bundler_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/bundler"
	"pinnace.dev/pinnace/pkg/bundler/source"
)

func ExampleBuild() {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	manifest := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: greeting}\n"
	if err := os.MkdirAll(filepath.Join(dir, "bundles", "hello"), 0o755); err != nil {
		fmt.Println(err)
		return
	}
	if err := os.WriteFile(filepath.Join(dir, "bundles", "hello", "greeting.yaml"), []byte(manifest), 0o600); err != nil {
		fmt.Println(err)
		return
	}

	ctx := context.Background()
	found, err := bundler.Discover(ctx, source.Tree{Dir: dir}, v1alpha1.Source{Name: "apps", Paths: []string{"bundles/*"}}, bundler.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, bundle := range found {
		built, err := bundler.Build(ctx, bundle, bundler.Variant{})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(built.Config.Name, built.Config.Method, built.Objects[0].GetName(), built.LayerMediaType)
	}
	// Output: hello apply greeting application/vnd.pinnace.bundle.content.v1.tar+gzip
}
