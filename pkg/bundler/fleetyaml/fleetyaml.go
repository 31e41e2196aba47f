// Package fleetyaml turns Rancher Fleet's fleet.yaml into a bundle.
//
// [Convert] reads one. What Pinnace does otherwise, or not at all, is a [Finding] with file, line and field: harmless
// ones are for people to read, the others are errors, because what they would change on a cluster must not go unsaid.
// docs/fleet-migration.md lists what becomes of which field.
//
// Behaviour is Fleet's at commit 3b2c622 (August 2026).
package fleetyaml

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"pinnace.dev/pinnace/api/document"
	"pinnace.dev/pinnace/api/v1alpha1"
)

// Folder is the bundle's, of which a fleet.yaml says little: whether it holds a chart, a kustomization or manifests.
type Folder interface {
	// File reads a file by its path relative to the folder. The error wraps fs.ErrNotExist when there is none.
	File(name string) ([]byte, error)
}

// Finding is something in the file that has no equal in Pinnace.
type Finding struct {
	// Err has the place, and says what is otherwise and what to do.
	Err document.Error
	// Field is where it stands, such as targetCustomizations[0].helm.repo.
	Field string
	// Harmless findings change nothing on a cluster that its owner would miss.
	Harmless bool
	// General findings are the same for every file that has the field; [Warnings] says them once.
	General bool
}

// Converted is a fleet.yaml as a bundle.
type Converted struct {
	Bundle v1alpha1.Bundle
	// Document places errors about the bundle in the fleet.yaml: it takes paths of the bundle, such as spec.helm.chart.
	Document document.Document
	// Findings are in the order of the file's fields.
	Findings []Finding
}

// Err returns the findings that are not harmless; nil when there are none.
func (c Converted) Err() error {
	var found []error
	for _, finding := range c.Findings {
		if !finding.Harmless {
			found = append(found, finding.Err)
		}
	}
	return errors.Join(found...)
}

// Warnings returns the harmless findings of one or more files for people to read. What is general comes last, with the
// place of the first and how many more there are.
func Warnings(findings []Finding) []string {
	var single, general []string
	places := map[string]int{}
	for _, finding := range findings {
		switch {
		case finding.Harmless && finding.General:
			places[finding.Field]++
		case finding.Harmless:
			single = append(single, finding.Err.Error())
		}
	}
	for _, finding := range findings {
		n := places[finding.Field]
		if !finding.Harmless || !finding.General || n == 0 {
			continue
		}
		text := finding.Err.Error()
		switch {
		case n == 2:
			text += " (and so in 1 more file)"
		case n > 2:
			text += fmt.Sprintf(" (and so in %d more files)", n-1)
		}
		general = append(general, text)
		delete(places, finding.Field)
	}
	return append(single, general...)
}

// Convert reads a fleet.yaml, which file names in errors. The error says why it cannot be read at all: it is no YAML, or
// has fields that Fleet doesn't know. Everything else is in the findings.
func Convert(file string, data []byte, folder Folder) (Converted, error) {
	doc, err := document.ReadForeign(file, data, "fleet.yaml")
	if err != nil {
		return Converted{}, err
	}
	c := converter{doc: doc, folder: folder, origins: origins{}}
	if err := doc.Decode(&c.in); err != nil {
		return Converted{}, err
	}
	c.out.TypeMeta = v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindBundle}
	c.convert()
	slices.SortStableFunc(c.findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Err.Line, b.Err.Line), cmp.Compare(a.Field, b.Field))
	})
	return Converted{Bundle: c.out, Document: doc.WithPlaces(c.origins.place), Findings: c.findings}, nil
}

type converter struct {
	doc      document.Document
	folder   Folder
	in       fleetYAML
	out      v1alpha1.Bundle
	findings []Finding
	origins  origins
}

// refuse reports what Pinnace cannot do, warn what it does otherwise without harm.
func (c *converter) refuse(field, format string, args ...any) {
	c.report(false, field, format, args...)
}

func (c *converter) warn(field, text string) { c.report(true, field, "%s", text) }

// warnOnce is warn for what is so in every file that has the field.
func (c *converter) warnOnce(field, text string) {
	c.warn(field, text)
	c.findings[len(c.findings)-1].General = true
}

func (c *converter) report(harmless bool, field, format string, args ...any) {
	finding := Finding{Field: field, Harmless: harmless}
	errors.As(c.doc.Errorf(field, "%s: %s", field, fmt.Sprintf(format, args...)), &finding.Err)
	c.findings = append(c.findings, finding)
}

func (c *converter) holds(name string) bool {
	_, err := c.folder.File(name)
	return err == nil
}

// origins say where in the fleet.yaml a path of the bundle comes from.
type origins map[string]string

// place translates a path by its longest known beginning. What has no origin is not in the file.
func (o origins) place(path string) string {
	for known := path; known != ""; known = parent(known) {
		if origin, ok := o[known]; ok {
			return origin + path[len(known):]
		}
	}
	return ""
}

// parent cuts the last step off: a.b[c] becomes a.b.
func parent(path string) string {
	return path[:max(strings.LastIndexAny(path, ".["), 0)]
}
