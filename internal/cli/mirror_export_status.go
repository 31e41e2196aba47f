package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/mirror"
	"pinnace.dev/pinnace/pkg/oci/mirror/medium"
)

// reports finds what agents reported: in a registry, or in the folders that they keep.
func (o *mirrorExportOptions) reports(ctx context.Context, s *session, export *medium.ExportOptions) error {
	if o.stream == "" {
		return usagef("--status needs --stream, the name of this site, so that the centre can tell old from new")
	}
	var places []oci.Registry
	for _, from := range o.from {
		place, err := o.reportPlace(s, from)
		if err != nil {
			return err
		}
		places = append(places, place)
	}
	var err error
	export.Content, export.Stream = medium.ContentStatus, "status-"+o.stream
	if export.Closure, export.Open, err = mirror.FindStatus(ctx, places...); err != nil {
		return err
	}
	if len(export.Closure.Entries) == 0 {
		return fmt.Errorf("reports in %s: %w; agents report where their configuration names a status key", strings.Join(o.from, ", "), oci.ErrNotFound)
	}
	return nil
}

// reportFolder is where, in an agent's state folder, its report lies that no registry took.
const reportFolder = "status"

// reportPlace opens a registry, or the folder of an agent.
func (o *mirrorExportOptions) reportPlace(s *session, from string) (oci.Registry, error) {
	info, err := os.Stat(from)
	if err != nil || !info.IsDir() {
		return o.source.sender.registry.open(s, from)
	}
	for _, dir := range []string{filepath.Join(from, reportFolder), from} {
		_, err := os.Stat(filepath.Join(dir, ocispec.ImageLayoutFile))
		if errors.Is(err, fs.ErrNotExist) {
			continue // opening it would make one
		}
		if err != nil {
			return nil, fmt.Errorf("reports in %s: %w", from, err)
		}
		return oci.OpenLayout(dir)
	}
	return nil, fmt.Errorf("reports in %s: %w; name the state folder of an agent: it keeps a report there when no registry takes it", from, oci.ErrNotFound)
}
