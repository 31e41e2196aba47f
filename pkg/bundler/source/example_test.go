package source_test

import (
	"context"
	"errors"
	"fmt"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/bundler/source"
)

func ExampleCheckout() {
	_, err := source.Checkout(context.Background(),
		v1alpha1.Source{Name: "platform", Git: &v1alpha1.GitSource{URL: "file:///nowhere/platform.git"}},
		source.Options{CacheDir: "/tmp/pinnace-example"})
	fmt.Println(errors.Is(err, source.ErrNotFound))
	// Output: true
}
