package reporting

import (
	"context"
	"fmt"
)

// Statement runs one statement as it is, and returns how many rows it was about. It is for measurements, which put it beside what is
// done here; nothing that runs in production calls it.
func (t *Tables) Statement(ctx context.Context, sql string) (int64, error) {
	done, err := t.pool.Exec(ctx, sql)
	if err != nil {
		return 0, fmt.Errorf("asking PostgreSQL: %w", err)
	}
	return done.RowsAffected(), nil
}
