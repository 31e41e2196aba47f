package fleetyaml

import (
	"path"
	"strings"

	"pinnace.dev/pinnace/api/document"
	"pinnace.dev/pinnace/api/v1alpha1"
)

const ignoreFile = ".fleetignore"

// ignored leaves out the manifests that the folder's .fleetignore names. Charts and kustomizations say themselves which
// files are theirs.
func (c *converter) ignored() {
	content, err := c.folder.File(ignoreFile)
	if err != nil {
		return
	}
	if !c.plain() {
		c.findings = append(c.findings, Finding{Harmless: true, Field: ignoreFile, Err: document.Error{
			File: path.Join(path.Dir(c.doc.File), ignoreFile), Line: 1, Column: 1,
			Message: "is read beside plain manifests only; a chart has .helmignore, a kustomization lists its files",
		}})
		return
	}
	globs := ignoredGlobs(string(content))
	if len(globs) == 0 {
		return
	}
	if c.out.Spec.Manifests == nil {
		c.out.Spec.Manifests = &v1alpha1.Manifests{}
	}
	c.out.Spec.Manifests.Exclude = globs
}

// ignoredGlobs: a line names files and folders, wherever they are; one that ends in /* all that is in such a folder.
func ignoredGlobs(content string) []string {
	var globs []string
	for line := range strings.Lines(content) {
		line = strings.TrimRight(line, "\r\n\t ")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if folder, ok := strings.CutSuffix(line, "/*"); ok {
			globs = append(globs, "**/"+folder+"/**")
			continue
		}
		globs = append(globs, "**/"+line, "**/"+line+"/**")
	}
	return globs
}
