package main

import (
	"bytes"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// bom is what we write of CycloneDX 1.6.
//
// See https://cyclonedx.org/docs/1.6/json/
type bom struct {
	Schema      string      `json:"$schema"`
	BOMFormat   string      `json:"bomFormat"`
	SpecVersion string      `json:"specVersion"`
	Version     int         `json:"version"`
	Metadata    bomMetadata `json:"metadata"`
	Components  []component `json:"components"`
}

type bomMetadata struct {
	Component component `json:"component"`
}

type component struct {
	Type       string     `json:"type"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	PURL       string     `json:"purl,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// writeSBOM lists what the linker put into a binary, by what Go leaves in it, and returns the file's name.
func writeSBOM(dir, binary, version string) (string, error) {
	info, err := buildinfo.ReadFile(filepath.Join(dir, binary))
	if err != nil {
		return "", err
	}
	out := bom{
		Schema: "http://cyclonedx.org/schema/bom-1.6.schema.json", BOMFormat: "CycloneDX", SpecVersion: "1.6", Version: 1,
		Metadata:   bomMetadata{component{Type: "application", Name: binary, Version: version, PURL: purl(info.Main.Path, version)}},
		Components: []component{{Type: "library", Name: "stdlib", Version: strings.TrimPrefix(info.GoVersion, "go"), PURL: purl("stdlib", strings.TrimPrefix(info.GoVersion, "go"))}},
	}
	for _, module := range info.Deps {
		if module.Replace != nil {
			module = module.Replace
		}
		out.Components = append(out.Components, component{
			Type: "library", Name: module.Path, Version: module.Version, PURL: purl(module.Path, module.Version),
			Properties: []property{{Name: "go:sum", Value: module.Sum}},
		})
	}
	data, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return "", err
	}
	name := binary + ".cdx.json"
	return name, os.WriteFile(filepath.Join(dir, name), append(data, '\n'), 0o644)
}

func purl(path, version string) string { return fmt.Sprintf("pkg:golang/%s@%s", path, version) }

const intotoPayload = "application/vnd.in-toto+json"

// statement is an in-toto statement with SLSA provenance.
//
// See https://slsa.dev/spec/v1.0/provenance
type statement struct {
	Type          string    `json:"_type"`
	Subject       []subject `json:"subject"`
	PredicateType string    `json:"predicateType"`
	Predicate     predicate `json:"predicate"`
}

type subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

type predicate struct {
	BuildDefinition struct {
		BuildType            string            `json:"buildType"`
		ExternalParameters   map[string]string `json:"externalParameters"`
		InternalParameters   map[string]string `json:"internalParameters"`
		ResolvedDependencies []dependency      `json:"resolvedDependencies"`
	} `json:"buildDefinition"`
	RunDetails struct {
		Builder struct {
			ID string `json:"id"`
		} `json:"builder"`
	} `json:"runDetails"`
}

type dependency struct {
	URI    string            `json:"uri"`
	Digest map[string]string `json:"digest,omitempty"`
}

// provenance says from which commit and how the files with those checksums were built.
func provenance(opts options, sums []byte) ([]byte, error) {
	out := statement{Type: "https://in-toto.io/Statement/v1", PredicateType: "https://slsa.dev/provenance/v1"}
	for line := range bytes.Lines(sums) {
		sum, name, _ := strings.Cut(strings.TrimSpace(string(line)), "  ")
		out.Subject = append(out.Subject, subject{Name: name, Digest: map[string]string{"sha256": sum}})
	}
	definition := &out.Predicate.BuildDefinition
	definition.BuildType = "https://pinnace.dev/release/v1"
	definition.ExternalParameters = map[string]string{"version": opts.version, "platforms": opts.platforms}
	definition.InternalParameters = map[string]string{"go": runtime.Version()}
	source := dependency{URI: "git+" + opts.repository}
	if opts.commit != "" {
		source.Digest = map[string]string{"gitCommit": opts.commit}
	}
	definition.ResolvedDependencies = []dependency{source}
	out.Predicate.RunDetails.Builder.ID = opts.repository + "/hack/release"
	return json.MarshalIndent(out, "", "  ")
}
