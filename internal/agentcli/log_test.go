package agentcli

import (
	"bytes"
	stdlog "log"
	"strings"
	"testing"

	"k8s.io/klog/v2"
)

// What libraries print by themselves must neither show values nor break the format.
func TestLibrariesLogOurWay(t *testing.T) {
	before := stdlog.Writer()
	t.Cleanup(func() {
		stdlog.SetOutput(before)
		klog.ClearLogger()
	})
	var out bytes.Buffer
	s := &session{Program: Program{Err: &out}, logFormat: "json"}
	logLibraries(s.newLog())
	stdlog.Print("cannot overwrite table with non table for swordfish")
	klog.Warning("watch ended")
	if got := out.String(); strings.Contains(got, "swordfish") || !strings.Contains(got, `"msg":"watch ended"`) {
		t.Errorf("got %q, want the warning as JSON and no value", got)
	}
}
