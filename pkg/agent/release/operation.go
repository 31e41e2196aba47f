package release

import (
	"errors"
	"fmt"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	helmrelease "helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage/driver"
)

// operation is one install or upgrade.
type operation struct {
	releaser *Releaser
	config   *action.Configuration
	release  Release
	chart    *chart.Chart
	values   map[string]any
	inputs   string
	last     *helmrelease.Release // nil when there is none
}

// plan says what to do about the last revision; pure.
type plan string

const (
	install   plan = "install"
	replace   plan = "replace"   // install over the history of what was uninstalled
	upgrade   plan = "upgrade"   // also over a failed one
	recover   plan = "recover"   // its agent died: mark as failed, then upgrade
	uninstall plan = "uninstall" // half gone: finish that, then install
	busy      plan = "busy"      // somebody else's operation
)

// planFor decides. A pending release that carries our bundle's label is ours, and its agent is dead: this process has
// no operation on it, and there is one agent. Another's is left alone until it is older than the timeout.
func planFor(last *helmrelease.Release, bundle string, timeout time.Duration, now time.Time) plan {
	if last == nil {
		return install
	}
	switch status := last.Info.Status; {
	case status == helmrelease.StatusUninstalled:
		return replace
	case status == helmrelease.StatusUninstalling:
		return uninstall
	case !status.IsPending():
		return upgrade
	case last.Labels[labelBundle] == bundle, now.Sub(last.Info.LastDeployed.Time) > timeout:
		return recover
	}
	return busy
}

func (o operation) run() (*helmrelease.Release, error) {
	if err := checkDependencies(o.chart); err != nil {
		return nil, err
	}
	switch planFor(o.last, o.release.Bundle, o.release.timeout(), o.releaser.options.Now()) {
	case busy:
		return nil, fmt.Errorf("release %s/%s is %s since %s by somebody else; it is taken over when older than %s",
			o.release.Namespace, o.release.name(), o.last.Info.Status,
			o.last.Info.LastDeployed.UTC().Format(time.RFC3339), o.release.timeout())
	case install:
		return o.install(false)
	case replace:
		return o.install(true)
	case uninstall:
		action := action.NewUninstall(o.config)
		action.Timeout, action.DisableHooks = o.release.timeout(), true
		if _, err := action.Run(o.release.name()); err != nil && !errors.Is(err, driver.ErrReleaseNotFound) {
			return nil, fmt.Errorf("finish an interrupted uninstall: %w", err)
		}
		return o.install(false)
	case recover:
		o.last.SetStatus(helmrelease.StatusFailed, "interrupted: the agent that was at it is gone")
		if err := o.config.Releases.Update(o.last); err != nil {
			return nil, fmt.Errorf("recover release from %s: %w", o.last.Info.Status, err)
		}
	case upgrade:
	}
	return o.upgrade()
}

func (o operation) labels() map[string]string {
	return map[string]string{labelInputs: o.inputs, labelBundle: o.release.Bundle}
}

func (o operation) install(again bool) (*helmrelease.Release, error) {
	install := action.NewInstall(o.config)
	install.ReleaseName, install.Namespace, install.Replace = o.release.name(), o.release.Namespace, again
	install.Labels, install.PostRenderer = o.labels(), labeller{o.release}
	install.Timeout, install.Atomic = o.release.timeout(), o.release.Helm.Atomic
	install.DisableHooks, install.TakeOwnership = o.release.Helm.DisableHooks, o.release.Helm.TakeOwnership
	install.SkipCRDs, install.DisableOpenAPIValidation = true, true
	install.Force = false
	done, err := install.Run(o.chart, o.values)
	if err != nil {
		return done, fmt.Errorf("install: %w", err)
	}
	return done, o.test()
}

func (o operation) upgrade() (*helmrelease.Release, error) {
	upgrade := action.NewUpgrade(o.config)
	upgrade.Namespace, upgrade.MaxHistory = o.release.Namespace, o.release.maxHistory()
	upgrade.Labels, upgrade.PostRenderer = o.labels(), labeller{o.release}
	upgrade.Timeout, upgrade.Atomic = o.release.timeout(), o.release.Helm.Atomic
	upgrade.CleanupOnFail = o.release.Helm.Atomic
	upgrade.DisableHooks, upgrade.TakeOwnership = o.release.Helm.DisableHooks, o.release.Helm.TakeOwnership
	upgrade.Force = o.release.Options.Force
	upgrade.ResetValues, upgrade.SkipCRDs, upgrade.DisableOpenAPIValidation = true, true, true
	done, err := upgrade.Run(o.release.name(), o.chart, o.values)
	if err != nil {
		return done, fmt.Errorf("upgrade: %w", err)
	}
	return done, o.test()
}

// test runs the chart's tests when asked to; a failed test is the deploy's failure.
func (o operation) test() error {
	if !o.release.Helm.Test {
		return nil
	}
	test := action.NewReleaseTesting(o.config)
	test.Namespace, test.Timeout = o.release.Namespace, o.release.timeout()
	if _, err := test.Run(o.release.name()); err != nil {
		return fmt.Errorf("test: %w", err)
	}
	return nil
}
