package target

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"reflect"
	"slices"
	"strings"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// Fingerprint is a hash of what something is computed from, keyed with the fleet's seal key: it tells nobody else
// anything of secrets.
type Fingerprint string

// Fingerprint of everything that the plan of any cluster depends on, beside the cluster itself. method is how a bundle is
// installed, as far as it is known before it is built.
func (f *Fleet) Fingerprint(method func(bundle string) v1alpha1.Method) Fingerprint {
	w := f.newFingerprint()
	w.add(f.Name, f.Spec, f.Kept)
	for i := range f.Groups {
		w.add(f.Groups[i].ClusterGroup)
	}
	for i := range f.Bundles {
		bundle := &f.Bundles[i]
		w.add(bundle.Bundle, bundle.Source, bundle.Restrict, bundle.Targets, bundle.Exclude, method(bundle.Metadata.Name))
	}
	return w.sum()
}

// ClusterFingerprint is that of what is said of the i-th cluster, and what its agent reported.
func (f *Fleet) ClusterFingerprint(i int) Fingerprint {
	w := f.newFingerprint()
	w.add(f.Clusters[i].Cluster, f.Facts[f.Clusters[i].Metadata.Name])
	return w.sum()
}

// fingerprinter hashes Go values with their types: a number that is whole is something else to a template than one that
// isn't, while JSON writes both alike.
type fingerprinter struct {
	hash.Hash
	scratch []byte
}

func (f *Fleet) newFingerprint() *fingerprinter {
	return &fingerprinter{Hash: hmac.New(sha256.New, f.SealKey)}
}

func (w *fingerprinter) sum() Fingerprint { return Fingerprint(hex.EncodeToString(w.Sum(nil))) }

func (w *fingerprinter) add(values ...any) {
	for _, value := range values {
		w.value(reflect.ValueOf(value))
	}
}

var marshalsText = reflect.TypeFor[encoding.TextMarshaler]()

func (w *fingerprinter) value(v reflect.Value) {
	if !v.IsValid() {
		w.number(0)
		return
	}
	w.text(v.Kind().String())
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		w.value(v.Elem())
	case reflect.Struct:
		w.structure(v)
	case reflect.Map:
		keys := v.MapKeys() // strings, as in all documents
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		w.number(len(keys))
		for _, key := range keys {
			w.text(key.String())
			w.value(v.MapIndex(key))
		}
	case reflect.Slice, reflect.Array:
		w.number(v.Len())
		for i := range v.Len() {
			w.value(v.Index(i))
		}
	case reflect.String:
		w.text(v.String())
	default:
		w.text(fmt.Sprint(v.Interface())) // numbers and booleans
	}
}

func (w *fingerprinter) structure(v reflect.Value) {
	if v.Type().Implements(marshalsText) {
		text, err := v.Interface().(encoding.TextMarshaler).MarshalText()
		if err != nil {
			panic(err) // times of documents are valid
		}
		w.text(string(text))
		return
	}
	for i := range v.NumField() {
		if field := v.Type().Field(i); field.IsExported() {
			w.text(field.Name)
			w.value(v.Field(i))
		}
	}
}

func (w *fingerprinter) text(text string) {
	w.number(len(text))
	_, _ = io.WriteString(w, text) // a hash takes everything
}

func (w *fingerprinter) number(n int) {
	w.scratch = binary.AppendVarint(w.scratch[:0], int64(n))
	_, _ = w.Write(w.scratch)
}
