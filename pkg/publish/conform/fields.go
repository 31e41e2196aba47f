package conform

import (
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
)

var indexPattern = regexp.MustCompile(`\[[^\]]*\]`)

// typeField is a field of a Go type of Kubernetes.
type typeField struct {
	typ      reflect.Type
	required bool
}

// fieldsByType keeps what typeFields found.
var fieldsByType sync.Map

// typeFields returns a struct's fields by their names in JSON, with those that are inlined.
func typeFields(typ reflect.Type) map[string]typeField {
	if known, ok := fieldsByType.Load(typ); ok {
		return known.(map[string]typeField)
	}
	fields := map[string]typeField{}
	for i := range typ.NumField() {
		field := typ.Field(i)
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "" && (field.Anonymous || strings.Contains(options, "inline")) {
			inner := field.Type
			for inner.Kind() == reflect.Pointer {
				inner = inner.Elem()
			}
			if inner.Kind() == reflect.Struct {
				for name, field := range typeFields(inner) {
					fields[name] = field
				}
			}
			continue
		}
		if name != "" && name != "-" {
			fields[name] = typeField{field.Type, required(typ, name, options)}
		}
	}
	fieldsByType.Store(typ, fields)
	return fields
}

// required: Kubernetes' OpenAPI calls a field so that is neither left out of JSON when empty nor marked as optional.
func required(typ reflect.Type, name, options string) bool {
	return !strings.Contains(options, "omitempty") && !strings.Contains(options, "omitzero") && !slices.Contains(optional, typ.Name()+"."+name)
}

// optional are the fields that k8s.io/api marks as +optional, in comments, though they are written when empty. A test
// compares the list with the comments.
var optional = []string{
	"AllocatedDeviceStatus.conditions", "AzureFilePersistentVolumeSource.secretNamespace",
	"CSINodeDriver.topologyKeys", "CapacityRequestPolicy.default", "CertificateSigningRequestCondition.status",
	"ClusterRole.rules", "ContainerImage.names", "ControllerRevision.revision",
	"CustomResourceDefinitionStatus.acceptedNames", "CustomResourceDefinitionStatus.conditions",
	"CustomResourceDefinitionStatus.storedVersions", "DaemonSetCondition.status", "DaemonSetCondition.type",
	"DeploymentCondition.status", "DeploymentCondition.type", "DeploymentRollback.rollbackTo", "DeviceClaim.requests",
	"DeviceClass.spec", "DeviceRequest.deviceClassName", "EndpointSlice.endpoints", "EndpointSlice.ports",
	"Event.metadata", "Event.reportingComponent", "Event.reportingInstance", "FlowSchemaSpec.matchingPrecedence",
	"GRPCAction.service", "HorizontalPodAutoscalerStatus.currentMetrics", "IngressClassParametersReference.scope",
	"LimitedPriorityLevelConfiguration.assuredConcurrencyShares",
	"LimitedPriorityLevelConfiguration.nominalConcurrencyShares", "NetworkPolicySpec.podSelector",
	"NodeRuntimeHandler.name", "PodCertificateRequestSpec.pkixPublicKey",
	"PodCertificateRequestSpec.proofOfPossession", "PodDisruptionBudgetStatus.currentHealthy",
	"PodDisruptionBudgetStatus.desiredHealthy", "PodDisruptionBudgetStatus.disruptionsAllowed",
	"PodDisruptionBudgetStatus.expectedPods", "PodFailurePolicyOnPodConditionsPattern.status",
	"PodGroupTemplate.schedulingConstraints", "PriorityClass.value", "ProjectedVolumeSource.sources",
	"QueuingConfiguration.handSize", "QueuingConfiguration.queueLengthLimit", "QueuingConfiguration.queues",
	"ReplicaSetCondition.status", "ReplicaSetCondition.type", "ResourceClaim.spec", "ResourceClaimSpec.devices",
	"ResourceClaimTemplate.spec", "ResourceClaimTemplateSpec.spec", "ResourcePolicyRule.namespaces", "Role.rules",
	"RoleRef.apiGroup", "ScaleStatus.replicas", "StatefulSetCondition.status", "StatefulSetCondition.type",
	"StatefulSetOrdinals.start", "StatefulSetSpec.serviceName", "StatefulSetStatus.availableReplicas",
	"StorageVersion.spec", "StorageVersion.status", "TokenRequest.spec", "TokenRequestSpec.audiences",
	"TokenRequestSpec.boundObjectRef", "TokenRequestSpec.expirationSeconds", "TokenRequestStatus.expirationTimestamp",
	"TokenRequestStatus.token", "TypedLocalObjectReference.apiGroup", "TypedObjectReference.apiGroup",
	"WorkloadSpec.podGroupTemplates",
}
