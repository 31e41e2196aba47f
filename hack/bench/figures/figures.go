// Package figures prints what the benchmarks measured, one "name value unit" line each, and reduces repeated
// measurements to medians and percentiles.
package figures

import (
	"fmt"
	"slices"
)

// Report prints one figure to standard output.
func Report(name string, value float64, unit string) {
	fmt.Printf("%s %.4g %s\n", name, value, unit)
}

// Median returns the middle of values, of an even number the upper of both. It panics on none.
func Median(values []float64) float64 {
	return Percentile(values, 50)
}

// Percentile returns the value below or at which p percent (0 to 100) of values lie, by nearest rank. It panics on none.
func Percentile(values []float64, p int) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(len(sorted)*p/100, len(sorted)-1)]
}
