package core

import "time"

// Moment is a time to the nanosecond, zero for none. It takes a third of a time.Time, of which each person has three.
type Moment int64

func momentOf(t time.Time) Moment { return Moment(t.UnixNano()) }

// Time is the moment as a time, in UTC; the zero time for none.
func (m Moment) Time() time.Time {
	if m == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(m)).UTC()
}
