package signingtest

import (
	"errors"
	"os"
	"path/filepath"
)

// Cosign returns the path of the stock command, which make builds once below .cache/bin of the module.
func Cosign() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("find cosign: not within the module")
		}
		dir = filepath.Dir(dir)
	}
	path := filepath.Join(dir, ".cache", "bin", cosignName)
	if _, err := os.Stat(path); err != nil {
		return "", errors.New("find cosign: " + path + " is absent; run: make cosign")
	}
	return path, nil
}

// cosignName is what the Makefile calls it.
const cosignName = "cosign-v2.6.5"
