package cli

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	yaml "go.yaml.in/yaml/v4"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
)

// maxPolicyFile bounds a file of resources.
const maxPolicyFile = 4 << 20

func applyCommand(o *options) *cobra.Command {
	var files []string
	var dryRun bool
	var from source
	c := &cobra.Command{
		Use: "apply -f FILE|DIR", Short: "Create or replace connectors, rule sets, grants and audit exporters from YAML files, all or none",
		Long: "Create or replace connectors, rule sets, grants and audit exporters from YAML files, all or none.\n\nWhat somebody changed by another way since these files were last applied, and would be changed back, is refused:\n" +
			"take it over into the files (sallyport export says what stands), or let the files win with --force-drift.",
		Example: "  sallyport apply -f policy/\n  sallyport apply -f grants.yaml --dry-run\n  sallyport apply -f policy/ --force-drift",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			req, err := policyFiles(files, cmd.InOrStdin())
			if err != nil {
				return err
			}
			from.set(req)
			if req.DryRun = dryRun; dryRun {
				o.wait = false
			}
			return call(cmd.Context(), o, adminv1connect.NewPolicyServiceClient, adminv1connect.PolicyServiceClient.Apply, req, func(r *adminv1.ApplyResponse) table {
				t := table{head: []string{"KIND", "NAME", "ACTION"}}
				for _, change := range r.GetChanges() {
					t.rows = append(t.rows, []string{change.GetKind(), change.GetName(), lower(change.GetAction(), "APPLIED_ACTION_")})
				}
				return t
			})
		},
	}
	c.Flags().StringSliceVarP(&files, "filename", "f", nil, filesUsage)
	c.Flags().BoolVar(&dryRun, "dry-run", false, "check and show, but change nothing")
	from.flags(c)
	o.waits(c)
	return c
}

// source is which files are applied, and whether they win over what was changed since they were.
type source struct {
	name  string
	force bool
}

func (s *source) flags(c *cobra.Command) {
	c.Flags().StringVar(&s.name, "source", "files", "a name for these files: what is changed otherwise, or by files of another name, is told as drift; empty: neither remember nor compare")
	c.Flags().BoolVar(&s.force, "force-drift", false, "let the files win over what was changed by another way since they were last applied")
}

func (s *source) set(r *adminv1.ApplyRequest) { r.Source, r.ForceDrift = s.name, s.force }

// readResources adds the documents of a file, or of each YAML file of a folder in the order of their names.
func readResources(path string, stdin io.Reader, req *adminv1.ApplyRequest) error {
	if path == "-" {
		return readDocuments("standard input", stdin, req)
	}
	info, err := os.Stat(path)
	if err != nil {
		return usage("%w", err)
	}
	paths := []string{path}
	if info.IsDir() {
		paths = nil
		err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
			if ext := filepath.Ext(p); err == nil && !d.IsDir() && (ext == ".yaml" || ext == ".yml") {
				paths = append(paths, p)
			}
			return err
		})
		if err != nil {
			return usage("%w", err)
		}
		if len(paths) == 0 {
			return usage("%s holds no .yaml file", path)
		}
		slices.Sort(paths)
	}
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if err != nil {
			return usage("%w", err)
		}
		if err := readDocuments(p, bytes.NewReader(data), req); err != nil {
			return err
		}
	}
	return nil
}

func readDocuments(name string, r io.Reader, req *adminv1.ApplyRequest) error {
	loader, err := yaml.NewLoader(io.LimitReader(r, maxPolicyFile))
	for i := 1; err == nil; i++ {
		var node yaml.Node
		if err = loader.Load(&node); errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = addDocument(&node, req)
		}
		if err != nil {
			return usage("%s, document %d: %s", name, i, strings.TrimPrefix(err.Error(), "yaml: "))
		}
	}
	return usage("%s: %w", name, err)
}
