// Package crd holds the custom resource definitions, generated from the types.
package crd

import _ "embed"

// BundleDeployments is the definition of v1alpha1.BundleDeployment, YAML.
//
//go:embed pinnace.dev_bundledeployments.yaml
var BundleDeployments []byte
