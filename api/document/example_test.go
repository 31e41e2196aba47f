package document_test

import (
	"fmt"

	"pinnace.dev/pinnace/api/document"
	"pinnace.dev/pinnace/api/v1alpha1"
)

func ExampleDecode() {
	const file = `apiVersion: pinnace.dev/v1alpha1
kind: Bundle
metadata: {name: shop}
spec:
  namepsace: shop
  prune: {enabled: never}
`
	_, _, err := document.Decode[v1alpha1.Bundle]("bundles/shop/pinnace.yaml", []byte(file), v1alpha1.KindBundle)
	fmt.Println(err)
	// Output:
	// bundles/shop/pinnace.yaml:5:3: unknown field "namepsace" in Bundle.spec; did you mean "namespace"?
	// bundles/shop/pinnace.yaml:6:20: Bundle.spec.prune.enabled must be true or false, got "never"
}

func ExampleDocument_Errorf() {
	const file = `apiVersion: pinnace.dev/v1alpha1
kind: Fleet
metadata: {name: acme}
spec:
  sources:
    - name: apps
      git: {url: "ftp://git.example.com"}
`
	documents, err := document.Read("pinnace.yaml", []byte(file))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(documents[0].Errorf("spec.sources[0].git.url", "ftp is not supported; use https or ssh"))
	// Output:
	// pinnace.yaml:7:18: ftp is not supported; use https or ssh
}
