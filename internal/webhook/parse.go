package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Event says that a tag of a repository was pushed. Tag is empty when the sender doesn't say.
type Event struct {
	Repository, Tag string
}

// Senders.
const (
	Distribution = "distribution"
	Harbor       = "harbor"
	Generic      = "generic"
)

// notification is the union of what senders post: the fields tell which one it is.
type notification struct {
	// https://distribution.github.io/distribution/about/notifications/
	Events []struct {
		Action string `json:"action"`
		Target struct {
			Repository string `json:"repository"`
			Tag        string `json:"tag"`
		} `json:"target"`
	} `json:"events"`

	// https://goharbor.io/docs/2.13.0/working-with-projects/project-configuration/configure-webhooks/
	Type      string `json:"type"`
	EventData *struct {
		Resources []struct {
			Tag string `json:"tag"`
		} `json:"resources"`
		Repository struct {
			FullName string `json:"repo_full_name"`
		} `json:"repository"`
	} `json:"event_data"`

	// Whoever calls by hand. Harbor's own field of that name is within event_data.
	Repository string `json:"repository"`
	Tag        string `json:"tag"`
}

// Parse reads a notification's body. Pulls, deletions and whatever else registries tell are left out.
func Parse(body []byte) (events []Event, provider string, err error) {
	var sent notification
	if err := json.Unmarshal(body, &sent); err != nil {
		return nil, "", fmt.Errorf("not a notification: %w", err)
	}
	switch {
	case sent.Events != nil:
		for _, event := range sent.Events {
			if event.Action == "push" {
				events = append(events, Event{Repository: event.Target.Repository, Tag: event.Target.Tag})
			}
		}
		return events, Distribution, nil
	case sent.EventData != nil:
		if !strings.EqualFold(sent.Type, "PUSH_ARTIFACT") && !strings.EqualFold(sent.Type, "pushImage") {
			return nil, Harbor, nil
		}
		for _, resource := range sent.EventData.Resources {
			events = append(events, Event{Repository: sent.EventData.Repository.FullName, Tag: resource.Tag})
		}
		return events, Harbor, nil
	case sent.Repository != "":
		return []Event{{Repository: sent.Repository, Tag: sent.Tag}}, Generic, nil
	}
	return nil, "", errors.New(`not a notification: neither "events", "event_data" nor "repository" is set`)
}
