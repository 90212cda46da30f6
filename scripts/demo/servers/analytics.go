package servers

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// Analytics is an internal data store with one dataset, revenue.
type Analytics struct {
	*Upstream

	mu       sync.Mutex // guards datasets
	datasets map[string][]Row
}

// Row is one row of a dataset.
type Row = map[string]string

// NewAnalytics returns the server with its data. It is stateless.
func NewAnalytics() *Analytics {
	a := &Analytics{
		Upstream: newUpstream("analytics", "Analytics", Stateless),
		datasets: map[string][]Row{"revenue": {{"month": "2026-09", "euro": "81000"}, {"month": "2026-10", "euro": "94000"}}},
	}
	a.tools()
	return a
}

// Rows returns a dataset's rows; nil if there is no such dataset.
func (a *Analytics) Rows(dataset string) []Row {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.datasets[dataset])
}

type datasetQuery struct {
	Dataset string            `json:"dataset" jsonschema:"name of the dataset"`
	Where   map[string]string `json:"where,omitempty" jsonschema:"columns that must be equal"`
}

type rowList struct {
	Rows []Row `json:"rows"`
}

type datasetList struct {
	Datasets []string `json:"datasets"`
}

type datasetName struct {
	Dataset string `json:"dataset" jsonschema:"name of the dataset"`
}

type newRows struct {
	Dataset string `json:"dataset" jsonschema:"name of the dataset"`
	Rows    []Row  `json:"rows" jsonschema:"rows to append"`
}

func (a *Analytics) tools() {
	tool(a.Upstream, reads, "list_datasets", "List the datasets.",
		func(context.Context, *mcp.CallToolRequest, struct{}) (datasetList, error) {
			a.mu.Lock()
			defer a.mu.Unlock()
			return datasetList{Datasets: slices.Sorted(maps.Keys(a.datasets))}, nil
		})
	tool(a.Upstream, reads, "run_query", "Read the rows of a dataset.",
		func(_ context.Context, _ *mcp.CallToolRequest, in datasetQuery) (rowList, error) {
			a.mu.Lock()
			defer a.mu.Unlock()
			rows, ok := a.datasets[in.Dataset]
			if !ok {
				return rowList{}, fmt.Errorf("dataset %q not found", in.Dataset)
			}
			out := rowList{Rows: []Row{}}
			for _, row := range rows {
				match := true
				for k, v := range in.Where {
					match = match && row[k] == v
				}
				if match {
					out.Rows = append(out.Rows, maps.Clone(row))
				}
			}
			return out, nil
		})
	tool(a.Upstream, writes, "create_dataset", "Create an empty dataset.",
		func(_ context.Context, _ *mcp.CallToolRequest, in datasetName) (done, error) {
			a.mu.Lock()
			defer a.mu.Unlock()
			if _, ok := a.datasets[in.Dataset]; ok {
				return done{}, fmt.Errorf("dataset %q exists", in.Dataset)
			}
			a.datasets[in.Dataset] = []Row{}
			return done{Status: "created " + in.Dataset}, nil
		})
	tool(a.Upstream, writes, "write_rows", "Append rows to a dataset.",
		func(_ context.Context, _ *mcp.CallToolRequest, in newRows) (done, error) {
			a.mu.Lock()
			defer a.mu.Unlock()
			if _, ok := a.datasets[in.Dataset]; !ok {
				return done{}, fmt.Errorf("dataset %q not found", in.Dataset)
			}
			a.datasets[in.Dataset] = append(a.datasets[in.Dataset], in.Rows...)
			return done{Status: fmt.Sprintf("wrote %d rows", len(in.Rows))}, nil
		})
	tool(a.Upstream, destroys, "drop_dataset", "Delete a dataset with all its rows.",
		func(_ context.Context, _ *mcp.CallToolRequest, in datasetName) (done, error) {
			a.mu.Lock()
			defer a.mu.Unlock()
			if _, ok := a.datasets[in.Dataset]; !ok {
				return done{}, fmt.Errorf("dataset %q not found", in.Dataset)
			}
			delete(a.datasets, in.Dataset)
			return done{Status: "dropped " + in.Dataset}, nil
		})
}
