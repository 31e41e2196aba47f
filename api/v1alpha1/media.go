package v1alpha1

// Artifact and media types, as they stand in manifests.
const (
	ArtifactTypeBundle = "application/vnd.pinnace.bundle.v1"
	ArtifactTypeTarget = "application/vnd.pinnace.target.v1"
	ArtifactTypeStatus = "application/vnd.pinnace.status.v1"
	ArtifactTypeFleet  = "application/vnd.pinnace.fleet.v1"
	ArtifactTypePlan   = "application/vnd.pinnace.plan.v1"
	ArtifactTypeGate   = "application/vnd.pinnace.gate.v1"
	// ArtifactTypeConsent is an approval of a rollout's step; its subject is the plan.
	ArtifactTypeConsent = "application/vnd.pinnace.consent.v1"
	// ArtifactTypeSummary is the fleet's status, summed up.
	ArtifactTypeSummary = "application/vnd.pinnace.summary.v1"

	MediaTypeBundleConfig  = "application/vnd.pinnace.bundle.config.v1+json"
	MediaTypeBundleContent = "application/vnd.pinnace.bundle.content.v1.tar+gzip"
	MediaTypeHelmChart     = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
	MediaTypeFluxContent   = "application/vnd.cncf.flux.content.v1.tar+gzip"
	MediaTypeTarget        = "application/vnd.pinnace.target.v1+json"
	MediaTypeStatus        = "application/vnd.pinnace.status.v1+json"
	MediaTypeFleetIndex    = "application/vnd.pinnace.fleet.v1+json"
	MediaTypePlan          = "application/vnd.pinnace.plan.v1+json"
	MediaTypeGate          = "application/vnd.pinnace.gate.v1+json"
	MediaTypeConsent       = "application/vnd.pinnace.consent.v1+json"
	MediaTypeSummary       = "application/vnd.pinnace.summary.v1+json"
	MediaTypeDSSE          = "application/vnd.dsse.envelope.v1+json"
)

// TagCurrent is the tag that agents poll and that a publish moves last.
const TagCurrent = "current"

// Repositories below the fleet's prefix.
const (
	RepositoryFleet    = "fleet"
	repositoryBundles  = "bundles/"
	repositoryTargets  = "targets/"
	repositoryStatuses = "status/"
)

// BundleRepository is where the bundle's artifacts live, relative to the fleet's prefix.
func BundleRepository(bundle string) string { return repositoryBundles + bundle }

// TargetRepository is where the cluster's target lives, relative to the fleet's prefix.
func TargetRepository(cluster string) string { return repositoryTargets + cluster }

// StatusRepository is where the cluster reports, relative to the fleet's prefix.
func StatusRepository(cluster string) string { return repositoryStatuses + cluster }

// Labels and annotations on objects in a cluster.
const (
	FieldManager    = "pinnace"
	LabelManagedBy  = "app.kubernetes.io/managed-by"
	LabelBundle     = "pinnace.dev/bundle"
	AnnotationForce = "pinnace.dev/force" // "true": recreate when an immutable field changes
	AnnotationPrune = "pinnace.dev/prune" // "disabled": never delete
)
