package policy

// matchGlob tells whether a tool's name matches a glob: "*" stands for any run of characters, "?" for one,
// anything else for itself. Tool names are ASCII.
func matchGlob(glob, name string) bool {
	// Where a star was seen, the rest of the glob is tried at each later place: linear in practice, and
	// never worse than the product of the lengths, since only the last star is gone back to.
	g, n, star, mark := 0, 0, -1, 0
	for n < len(name) {
		switch {
		case g < len(glob) && glob[g] == '*':
			star, mark = g, n
			g++
		case g < len(glob) && (glob[g] == '?' || glob[g] == name[n]):
			g++
			n++
		case star >= 0:
			mark++
			g, n = star+1, mark
		default:
			return false
		}
	}
	for g < len(glob) && glob[g] == '*' {
		g++
	}
	return g == len(glob)
}

func matchAny(globs []string, name string) bool {
	for _, g := range globs {
		if matchGlob(g, name) {
			return true
		}
	}
	return false
}
