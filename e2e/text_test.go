package e2e

import "strings"

func contains(text, part string) bool { return strings.Contains(text, part) }

// last returns the end of a text.
func last(text string, n int) string { return text[max(0, len(text)-n):] }
