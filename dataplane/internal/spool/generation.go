package spool

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// generation is one life of the spool folder: a folder "<sequence>-<id>" with segments, the acknowledged
// position and what is needed to judge the folder after a crash.
type generation struct {
	sequence uint64
	id       string
	dir      string
	magic    uint64
	segments []*segment // ascending, at least the one being written while this is the newest
	last     uint64     // the last number that Append reported as kept
	acked    uint64
	dropped  uint64 // up to which number its records were dropped; zero: none were
	meta     meta
}

// segment is one file of consecutive records, named by the number of its first.
type segment struct {
	first, last uint64
	size        int64 // bytes of sound frames; anything behind them does not count
}

// meta is kept beside a generation's segments.
type meta struct {
	// Boot is the boot of the machine that last wrote here.
	Boot string `json:"boot"`
	// Synced says that each record was synced to disk before it counted.
	Synced bool `json:"synced"`
	// Clean says that the spool was closed, Last being the last record.
	Clean bool   `json:"clean"`
	Last  uint64 `json:"last,omitempty"`
	// Ends says where earlier generations end: what lies behind was copied into this one or is named in its gap records.
	Ends map[string]uint64 `json:"ends,omitempty"`
}

const (
	metaFile     = "meta.json"
	ackedFile    = "acknowledged"
	segmentExt   = ".segment"
	unfinished   = "unfinished-"
	dirMode      = 0o700
	fileMode     = 0o600
	numberDigits = 20
)

func segmentName(first uint64) string { return fmt.Sprintf("%0*d%s", numberDigits, first, segmentExt) }

func (g *generation) path(s *segment) string { return filepath.Join(g.dir, segmentName(s.first)) }

func (g *generation) writeMeta() error {
	b, err := json.Marshal(g.meta)
	if err != nil {
		return fmt.Errorf("encoding the spool's state: %w", err)
	}
	return replaceFile(filepath.Join(g.dir, metaFile), b)
}

// saveAcked keeps the acknowledged position. It need be synced only before records are deleted: an older position
// means sending again what the control plane recognises as its own.
func (g *generation) saveAcked(acked uint64, sync bool) error {
	var b [12]byte
	binary.LittleEndian.PutUint64(b[:], acked)
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b[:8], castagnoli))
	f, err := os.OpenFile(filepath.Join(g.dir, ackedFile), os.O_WRONLY|os.O_CREATE, fileMode)
	if err != nil {
		return fmt.Errorf("keeping the acknowledged position: %w", err)
	}
	_, err = f.WriteAt(b[:], 0)
	if err == nil && sync {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("keeping the acknowledged position: %w", err)
	}
	return nil
}

func loadAcked(dir string) uint64 {
	b, err := os.ReadFile(filepath.Join(dir, ackedFile))
	if err != nil || len(b) < 12 || crc32.Checksum(b[:8], castagnoli) != binary.LittleEndian.Uint32(b[8:]) {
		return 0
	}
	return binary.LittleEndian.Uint64(b)
}

// listGenerations returns the generations in the folder, oldest first, and removes what a crash left half made.
func listGenerations(dir string) ([]*generation, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the spool folder: %w", err)
	}
	var all []*generation
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if strings.HasPrefix(e.Name(), unfinished) {
			if err := os.RemoveAll(path); err != nil {
				return nil, fmt.Errorf("clearing the spool folder: %w", err)
			}
			continue
		}
		number, id, ok := strings.Cut(e.Name(), "-")
		sequence, err := strconv.ParseUint(number, 10, 64)
		if !ok || err != nil || !e.IsDir() || id == "" {
			continue
		}
		g := &generation{sequence: sequence, id: id, dir: path, magic: magicOf(id), acked: loadAcked(path)}
		// Without its state a generation is judged as after a crash of the machine, which is the careful side.
		if b, err := os.ReadFile(filepath.Join(path, metaFile)); err != nil || json.Unmarshal(b, &g.meta) != nil {
			g.meta = meta{}
		}
		if g.segments, err = listSegments(path); err != nil {
			return nil, err
		}
		all = append(all, g)
	}
	slices.SortFunc(all, func(a, b *generation) int {
		return compare(a.sequence, b.sequence)
	})
	return all, nil
}

func listSegments(dir string) ([]*segment, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the spool folder: %w", err)
	}
	var all []*segment
	for _, e := range entries {
		number, ok := strings.CutSuffix(e.Name(), segmentExt)
		first, err := strconv.ParseUint(number, 10, 64)
		if !ok || err != nil || first == 0 || len(number) != numberDigits {
			continue
		}
		all = append(all, &segment{first: first, last: first - 1})
	}
	slices.SortFunc(all, func(a, b *segment) int { return compare(a.first, b.first) })
	return all, nil
}

func compare(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// replaceFile writes a file that is whole or the old one, also after a crash of the machine.
func replaceFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", filepath.Base(path), err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("writing %s: %w", filepath.Base(path), err)
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing the spool folder: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("syncing the spool folder: %w", err)
	}
	return nil
}
