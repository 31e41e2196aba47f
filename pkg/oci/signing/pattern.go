package signing

import (
	"regexp"
	"strings"
)

// pattern matches repositories: * is anything within a segment, ** anything.
type pattern struct {
	text   string
	regexp *regexp.Regexp
}

func newPattern(text string) pattern {
	quoted := regexp.QuoteMeta(text)
	quoted = strings.ReplaceAll(quoted, `\*\*`, `.*`)
	quoted = strings.ReplaceAll(quoted, `\*`, `[^/]*`)
	return pattern{text: text, regexp: regexp.MustCompile(`^` + quoted + `$`)}
}

// specificity is how many characters are no wildcards.
func (p pattern) specificity() int { return len(strings.ReplaceAll(p.text, "*", "")) }

// matcher takes one text, or those that an expression matches wholly: a pattern without anchors would take
// https://github.com/acme/x.attacker.example otherwise.
type matcher struct {
	exact  string
	regexp *regexp.Regexp
}

func newMatcher(exact, expression string) (matcher, error) {
	if expression == "" {
		return matcher{exact: exact}, nil
	}
	// Two steps, so that a parenthesis too many cannot leave the group.
	if _, err := regexp.Compile(expression); err != nil {
		return matcher{}, err
	}
	compiled, err := regexp.Compile(`\A(?:` + expression + `)\z`)
	return matcher{regexp: compiled}, err
}

func (m matcher) matches(text string) bool {
	if m.regexp != nil {
		return m.regexp.MatchString(text)
	}
	return m.exact == text
}
