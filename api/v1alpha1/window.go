package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Window is a span of local time that comes again: within it, new versions may be brought to a cluster.
type Window struct {
	// Cron says when it opens: minute, hour, day of month, month, day of week.
	Cron string `json:"cron"`
	// Duration is how long it stays open.
	Duration metav1.Duration `json:"duration"`
	// TimeZone is a name of the IANA database, such as Europe/Berlin; UTC when empty.
	TimeZone string `json:"timeZone,omitempty"`
}

// OnFailure says what an agent does with a version that fails, or isn't ready within its timeout.
type OnFailure string

const (
	// OnFailureKeep leaves it as it is and goes on trying; the default.
	OnFailureKeep OnFailure = "keep"
	// OnFailureRollback applies the last version that was ready again, from the disk.
	OnFailureRollback OnFailure = "rollback"
)
