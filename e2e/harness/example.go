package harness

// ExampleBundles lists, for each cluster of the example fleet, the bundles that it gets.
var ExampleBundles = map[string][]string{
	"factory-01": {"clock", "sensors", "shop", "site", "telemetry"},
	"store-42":   {"clock", "shop", "site", "telemetry"},
	"ship-7":     {"clock", "sensors", "site", "telemetry"},
}
