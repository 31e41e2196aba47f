package publish

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/target"
)

// maxPlans stops a damaged cache that fills the memory: it has some hundred bytes for each cluster.
const maxPlans = 256 << 20

// plans are what the last publish from this machine found out of each cluster, kept in the cache folder: a plan is
// computed from nothing but what its two fingerprints hash, so those of thousands of clusters that nobody touched need not
// be computed again. Without the file, or by another program, they are.
type plans struct {
	// Program is the file that made them, and Fleet the fingerprint of what all clusters have in common.
	Program string
	Fleet   target.Fingerprint
	// Variants are named in Choices, by their number; each list of variants stands there once.
	Variants []string
	Choices  [][]int
	Clusters map[string]clusterPlan
}

type clusterPlan struct {
	Inputs target.Fingerprint
	Sketch []byte
	Choice int
}

// program tells this program from another one, or another version: an empty text when that is not known.
func program() string {
	path, err := os.Executable()
	if err != nil {
		return ""
	}
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%s %d %d", path, info.Size(), info.ModTime().UnixNano())
}

func (l *Loaded) fingerprint() target.Fingerprint {
	return l.Fleet.Fingerprint(func(bundle string) v1alpha1.Method { return l.found[bundle].method() })
}

func plansFile(cacheDir, fleet string) string {
	sum := sha256.Sum256([]byte(fleet))
	return filepath.Join(cacheDir, "plans", hex.EncodeToString(sum[:8])+".json")
}

// readPlans returns those that hold for the fleet as it is; nothing is remembered otherwise.
func readPlans(cacheDir string, loaded *Loaded) plans {
	now := plans{Program: program(), Fleet: loaded.fingerprint()}
	if cacheDir == "" || now.Program == "" {
		return now
	}
	file, err := os.Open(plansFile(cacheDir, loaded.Fleet.Name))
	if err != nil {
		return now
	}
	defer func() { _ = file.Close() }()
	var known plans
	if json.NewDecoder(io.LimitReader(file, maxPlans)).Decode(&known) != nil || known.Program != now.Program || known.Fleet != now.Fleet {
		return now
	}
	for _, choice := range known.Choices {
		for _, variant := range choice {
			if variant < 0 || variant >= len(known.Variants) {
				return now
			}
		}
	}
	for _, cluster := range known.Clusters {
		if cluster.Choice < 0 || cluster.Choice >= len(known.Choices) || len(cluster.Sketch) != len(target.Sketch{}) {
			return now
		}
	}
	return known
}

// recall returns the plans of clusters that need not be planned again, by their number. The first cluster that gets a
// variant is always planned, and so is the first of all: its values are those that a chart is tried with, and it shows
// whether what is remembered still holds.
func (k *plans) recall(fleet *target.Fleet) map[int]clusterPlan {
	recalled := map[int]clusterPlan{}
	seen := make([]bool, len(k.Variants))
	chosen := make([]bool, len(k.Choices))
	anyPlanned := false
	for i := range fleet.Clusters {
		plan, known := k.Clusters[fleet.Clusters[i].Metadata.Name]
		if !known || plan.Inputs != fleet.ClusterFingerprint(i) {
			continue
		}
		if chosen[plan.Choice] {
			recalled[i] = plan
			continue
		}
		chosen[plan.Choice] = true
		isFirst := !anyPlanned
		anyPlanned = true
		for _, variant := range k.Choices[plan.Choice] {
			isFirst = isFirst || !seen[variant]
			seen[variant] = true
		}
		if !isFirst {
			recalled[i] = plan
		}
	}
	return recalled
}

// contradicts reports whether a cluster that was planned now was planned otherwise before, from the same.
func (k *plans) contradicts(fleet *target.Fleet, i int, sketch target.Sketch) bool {
	plan, known := k.Clusters[fleet.Clusters[i].Metadata.Name]
	return known && !bytes.Equal(plan.Sketch, sketch[:]) && plan.Inputs == fleet.ClusterFingerprint(i)
}

// complete gives the clusters that were recalled their drafts; false when a variant of theirs is in no plan.
func (k *plans) complete(drafts []draft, recalled map[int]clusterPlan, all variants) bool {
	choices := make([][]*variant, len(k.Choices)) // clusters with the same share one list
	for i, plan := range recalled {
		if choices[plan.Choice] == nil {
			choices[plan.Choice] = make([]*variant, len(k.Choices[plan.Choice]))
			for j, number := range k.Choices[plan.Choice] {
				v := all[k.Variants[number]]
				if v == nil {
					return false
				}
				choices[plan.Choice][j] = v
			}
		}
		drafts[i] = draft{sketch: target.Sketch(plan.Sketch), variants: choices[plan.Choice]}
		for _, v := range choices[plan.Choice] {
			v.clusters++
		}
	}
	return true
}

// write keeps the plans for the next publish.
func (k *plans) write(cacheDir string, fleet *target.Fleet, drafts []draft) error {
	if cacheDir == "" || k.Program == "" {
		return nil
	}
	next := plans{Program: k.Program, Fleet: k.Fleet, Clusters: make(map[string]clusterPlan, len(drafts))}
	numbers, choices := map[string]int{}, map[string]int{}
	for i, draft := range drafts {
		var key strings.Builder
		for _, v := range draft.variants {
			key.WriteString(v.name + "\n")
		}
		choice, known := choices[key.String()]
		if !known {
			choice = len(next.Choices)
			choices[key.String()] = choice
			list := make([]int, len(draft.variants))
			for j, v := range draft.variants {
				number, known := numbers[v.name]
				if !known {
					number = len(next.Variants)
					numbers[v.name] = number
					next.Variants = append(next.Variants, v.name)
				}
				list[j] = number
			}
			next.Choices = append(next.Choices, list)
		}
		next.Clusters[fleet.Clusters[i].Metadata.Name] = clusterPlan{Inputs: fleet.ClusterFingerprint(i), Sketch: draft.sketch[:], Choice: choice}
	}
	data, err := json.Marshal(next)
	if err != nil {
		return err
	}
	name := plansFile(cacheDir, fleet.Name)
	return errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), renameio.WriteFile(name, data, 0o600))
}
