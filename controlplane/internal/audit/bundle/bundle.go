// Package bundle puts a whole investigation into one file: the records with what proves them, the policy as it was, and a page for
// people. The file is a ZIP archive of plain files, so that whoever gets it needs nothing of Sallyport to read it, and Sallyport's
// command line alone to check it.
//
// A manifest has the SHA-256 of each file. It is not signed: what is proved is what lies in records.audit, by the control plane's
// signatures there. Everything in records is from outside: the page holds no script, and shows what could steer a reader's eye as code.
package bundle

import (
	"archive/zip"
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"sallyport.dev/controlplane/internal/audit/format"
	"sallyport.dev/controlplane/internal/audit/proof"
)

// Names of files in a bundle.
const (
	recordsFile  = "records.audit"
	linesFile    = "records.jsonl"
	reportFile   = "report.html"
	readmeFile   = "README.txt"
	manifestFile = "manifest.json"
)

// maxManifest bounds what is read of a manifest.
const maxManifest = 1 << 20

// Investigation is what a bundle is about.
type Investigation struct {
	// Asked says which records were asked for, for people.
	Asked string
	// From and To are the time that was asked for; zero: from the beginning, to the end.
	From, To time.Time
	MadeAt   time.Time
	// Names are people's names of today, by id; who is missing is shown by id.
	Names map[string]string
	// Files lie beside the records, and are shown on the page: policies, and what people could do then.
	Files []File
	// Missing says what could not be had, and why.
	Missing []string
}

// File is a file of text.
type File struct {
	Name  string
	About string
	Data  []byte
}

// Manifest lists the files of a bundle.
type Manifest struct {
	Format   int          `json:"format"`
	Asked    string       `json:"asked"`
	From     time.Time    `json:"from,omitzero"`
	To       time.Time    `json:"to,omitzero"`
	MadeAt   time.Time    `json:"made_at"`
	Verified proof.Report `json:"verified"`
	Missing  []string     `json:"missing,omitempty"`
	Files    []Entry      `json:"files"`
}

// Entry is a file of a manifest.
type Entry struct {
	Name   string `json:"name"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
	About  string `json:"about"`
}

// writer writes files and remembers what they were.
type writer struct {
	zip      *zip.Writer
	manifest Manifest
}

func (w *writer) add(name, about string, write func(io.Writer) error) error {
	to, err := w.zip.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate, Modified: w.manifest.MadeAt})
	if err != nil {
		return err
	}
	h, n := sha256.New(), &counter{}
	if err := write(io.MultiWriter(to, h, n)); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	w.manifest.Files = append(w.manifest.Files, Entry{Name: name, Bytes: n.bytes, SHA256: hex.EncodeToString(h.Sum(nil)), About: about})
	return nil
}

type counter struct{ bytes int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.bytes += int64(len(p))
	return len(p), nil
}

// Write writes a bundle round the records of an export.
func Write(to io.Writer, in *Investigation, records io.ReadSeeker) error {
	v := &proof.Verifier{}
	err := v.Read(records)
	if err == nil {
		err = v.Finish(time.Time{}, time.Time{})
	}
	if err != nil {
		return fmt.Errorf("the records do not verify: %w", err)
	}
	w := &writer{zip: zip.NewWriter(to), manifest: Manifest{
		Format: 1, Asked: in.Asked, From: in.From, To: in.To, MadeAt: in.MadeAt.UTC(), Verified: v.Report, Missing: in.Missing,
	}}
	text := func(s []byte) func(io.Writer) error {
		return func(to io.Writer) error {
			_, err := to.Write(s)
			return err
		}
	}
	if err := w.add(readmeFile, "what this is and how to check it", text([]byte(readme))); err != nil {
		return err
	}
	// of writes what is made of the records.
	of := func(write func(to io.Writer) error) func(io.Writer) error {
		return func(to io.Writer) error {
			if _, err := records.Seek(0, io.SeekStart); err != nil {
				return err
			}
			return write(to)
		}
	}
	if err := w.add(reportFile, "the same for people, to be opened in a browser", of(func(to io.Writer) error { return writeReport(to, in, &v.Report, records) })); err != nil {
		return err
	}
	if err := w.add(linesFile, "the records as lines of JSON", of(func(to io.Writer) error { return writeLines(to, in, records) })); err != nil {
		return err
	}
	for _, f := range in.Files {
		if err := w.add(f.Name, f.About, text(f.Data)); err != nil {
			return err
		}
	}
	if err := w.add(recordsFile, "the records, with what proves them", of(func(to io.Writer) error {
		_, err := io.Copy(to, records)
		return err
	})); err != nil {
		return err
	}
	manifest, err := json.MarshalIndent(w.manifest, "", "  ")
	if err != nil {
		return err
	}
	m, err := w.zip.Create(manifestFile)
	if err != nil {
		return err
	}
	if _, err := m.Write(manifest); err != nil {
		return err
	}
	return w.zip.Close()
}

func writeLines(to io.Writer, in *Investigation, records io.Reader) error {
	b := bufio.NewWriter(to)
	if err := Records(records, func(r format.Record) error {
		r.Person = in.Names[r.GetPersonId()]
		_, err := b.Write(append(format.JSON(r), '\n'))
		return err
	}); err != nil {
		return err
	}
	return b.Flush()
}

// Verify checks a bundle: that its files are those of its manifest, and its records by v, which is to be finished by the caller.
func Verify(r io.ReaderAt, size int64, v *proof.Verifier) error {
	z, err := zip.NewReader(r, size)
	if err != nil {
		return fmt.Errorf("the bundle cannot be read: %w", err)
	}
	there := map[string]*zip.File{}
	for _, f := range z.File {
		if there[f.Name] != nil {
			return fmt.Errorf("the bundle has two files %q", f.Name)
		}
		there[f.Name] = f
	}
	m, err := manifest(there[manifestFile])
	if err != nil {
		return err
	}
	delete(there, manifestFile)
	records := false
	for _, e := range m.Files {
		f := there[e.Name]
		if f == nil {
			return fmt.Errorf("the manifest has %q, and the bundle does not", e.Name)
		}
		delete(there, e.Name)
		if records = records || e.Name == recordsFile; e.Name == recordsFile {
			err = read(f, e, v.Read)
		} else {
			err = read(f, e, func(io.Reader) error { return nil })
		}
		if err != nil {
			return err
		}
	}
	for name := range there {
		return fmt.Errorf("the bundle has %q, and the manifest does not", name)
	}
	if !records {
		return errors.New("the bundle has no records")
	}
	return nil
}

func manifest(f *zip.File) (*Manifest, error) {
	if f == nil {
		return nil, errors.New("this is no bundle of audit: it has no " + manifestFile)
	}
	r, err := f.Open()
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(r, maxManifest))
	m := &Manifest{}
	if err = errors.Join(err, r.Close()); err == nil {
		err = json.Unmarshal(data, m)
	}
	if err == nil && m.Format != 1 {
		err = fmt.Errorf("it has format %d, and this build reads 1", m.Format)
	}
	if err != nil {
		return nil, fmt.Errorf("the bundle's manifest: %w", err)
	}
	return m, nil
}

// read reads a file whole, and says whether it is the manifest's.
func read(f *zip.File, e Entry, look func(io.Reader) error) error {
	r, err := f.Open()
	if err != nil {
		return err
	}
	h := sha256.New()
	from := io.TeeReader(io.LimitReader(r, e.Bytes+1), h)
	err = look(from)
	if err == nil {
		_, err = io.Copy(io.Discard, from)
	}
	if err = errors.Join(err, r.Close()); err != nil {
		return fmt.Errorf("%s: %w", e.Name, err)
	}
	if want, err := hex.DecodeString(e.SHA256); err != nil || !bytes.Equal(h.Sum(nil), want) {
		return fmt.Errorf("%s is not the file of the manifest: it was changed", e.Name)
	}
	return nil
}

const readme = `This is an investigation that Sallyport exported: audit records, the policy as it was, and a page for people.

  report.html     open it in a browser: it loads nothing and runs nothing
  records.audit   the records as they lie in the audit stream, each in its proxy's chain of hashes, under checkpoints that the
                  control plane signed; records that were not asked for are in it by their digest alone
  records.jsonl   the records that were asked for, as lines of JSON
  policy-*.yaml   the policy at the beginning and at the end of the time that was asked for, as sallyport apply takes it
  access.json     what the person could do at the end of that time, where one person was asked for
  manifest.json   which files there are, and the SHA-256 of each

To check it, on any machine, without a server:

  sallyport audit verify THIS-FILE.zip --key KEY

KEY is the control plane's public key, as sallyport audit checkpoint prints it: ask its operator, not whoever gave you the file.
What is proved are the records in records.audit. The policy, and what is made of the records, are as the control plane and the
command line told when the file was made.
`
