package evidence

import (
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// Statement is an in-toto statement: what is said about which artifacts.
//
// See https://github.com/in-toto/attestation/blob/v1.1.0/spec/v1/statement.md
type Statement struct {
	Type          string          `json:"_type"`
	Subject       []StatementOf   `json:"subject"`
	PredicateType string          `json:"predicateType"`
	Predicate     json.RawMessage `json:"predicate,omitempty"`
}

// StatementOf is an artifact that a statement is about. Annotations are what whoever signed it added.
type StatementOf struct {
	Name        string            `json:"name,omitempty"`
	Digest      map[string]string `json:"digest"`
	Annotations map[string]any    `json:"annotations,omitempty"`
}

// StatementType opens every statement.
const StatementType = "https://in-toto.io/Statement/v1"

func parseStatement(data []byte) (*Statement, error) {
	var statement Statement
	if err := json.Unmarshal(data, &statement); err != nil {
		return nil, fmt.Errorf("%w: statement: %w", ErrBroken, err)
	}
	return &statement, nil
}

// of returns what is said of the artifact; nil when it isn't about it.
func (s *Statement) of(d digest.Digest) *StatementOf {
	for i := range s.Subject {
		if s.Subject[i].Digest[d.Algorithm().String()] == d.Encoded() {
			return &s.Subject[i]
		}
	}
	return nil
}

func (s *Statement) claims(d digest.Digest) error {
	if s.of(d) == nil {
		return ErrOtherSubject
	}
	return nil
}

func (s *Statement) annotations(d digest.Digest) map[string]any {
	if of := s.of(d); of != nil {
		return of.Annotations
	}
	return nil
}
