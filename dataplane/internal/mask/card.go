package mask

// card masks a payment card number that begins at i, and returns where to go on.
func (f *finder) card(i int) (next int, ok bool) {
	b := f.b
	start := i
	if b[i] == '-' && !f.inString { // the sign of a JSON number
		i++
	}
	var digits [19]byte
	n, end := 0, i
	for p := i; p < len(b); p++ {
		c := b[p]
		if c >= '0' && c <= '9' {
			if n == len(digits) {
				return 0, false
			}
			digits[n] = c - '0'
			n++
			end = p + 1
			continue
		}
		// One space or hyphen between groups.
		if (c != ' ' && c != '-') || p != end || !f.inString {
			break
		}
	}
	if end < len(b) {
		if c := b[end]; class[c] == isWord && c != '-' || !f.inString && (c == '.' || c == '+') {
			return 0, false
		}
	}
	if !cardLength(digits[:n]) || !luhn(digits[:n]) {
		return 0, false
	}
	f.spans = append(f.spans, span{start, end, !f.inString})
	return end, true
}

// cardLength says whether the number is one that the big card schemes give out.
func cardLength(d []byte) bool {
	if len(d) < 13 {
		return false
	}
	two, four := int(d[0])*10+int(d[1]), int(d[0])*1000+int(d[1])*100+int(d[2])*10+int(d[3])
	switch n := len(d); {
	case d[0] == 4:
		return n == 13 || n == 16 || n == 19
	case two >= 51 && two <= 55, four >= 2221 && four <= 2720:
		return n == 16
	case two == 34 || two == 37:
		return n == 15
	case two == 36 || two == 38 || two == 39 || four >= 3000 && four <= 3059:
		return n == 14
	case two == 35, four == 6011, two == 64, two == 65:
		return n == 16
	case two == 62:
		return n >= 16
	}
	return false
}

func luhn(d []byte) bool {
	sum := 0
	for i := range d {
		v := int(d[len(d)-1-i])
		if i%2 == 1 {
			if v *= 2; v > 9 {
				v -= 9
			}
		}
		sum += v
	}
	return sum%10 == 0
}
