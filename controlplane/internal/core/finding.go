package core

import (
	"encoding/base64"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// Finding is a place in a definition that looks like instructions that people are not to see, or that are not about using the tool. It
// is a hint for whoever approves: text can be harmless that looks so, and harmful that does not.
type Finding struct {
	// Kind is a word that programs can rely on.
	Kind string
	// Path is a JSON Pointer.
	Path string
	// Text is what it is, and Excerpt what stands there, made visible.
	Text, Excerpt string
}

// Bounds of findings.
const (
	maxFindings  = 50
	longText     = 8 << 10 // bytes of one text, from which on nobody reads it to its end
	longBlob     = 96      // characters of one word that look like encoded data
	hiddenBehind = 80      // characters of white space in a row, which push text out of sight
	around       = 40      // characters that an excerpt shows on either side
)

// Findings looks for hidden instructions in all text of a definition, keys included, whatever schema they stand in.
func Findings(t *policyv1.Tool) []Finding {
	var f finder
	f.text("/name", t.GetName())
	f.walk("", readDefinition(t.GetDefinition()))
	return f.found
}

// NewFindings are those of an offered definition that the pinned one, which somebody approved, has not.
func NewFindings(pinned, offered *policyv1.Tool) []Finding {
	known := map[[3]string]bool{}
	if pinned != nil {
		for _, f := range Findings(pinned) {
			known[[3]string{f.Kind, f.Path, f.Excerpt}] = true
		}
	}
	return slices.DeleteFunc(Findings(offered), func(f Finding) bool { return known[[3]string{f.Kind, f.Path, f.Excerpt}] })
}

type finder struct{ found []Finding }

func (f *finder) add(kind, path, text, excerpt string) {
	one := Finding{kind, path, text, excerpt}
	if len(f.found) < maxFindings && !slices.Contains(f.found, one) {
		f.found = append(f.found, one)
	}
}

func (f *finder) walk(path string, v any) {
	switch v := v.(type) {
	case string:
		f.text(path, v)
	case []any:
		for i, one := range v {
			f.walk(path+"/"+strconv.Itoa(i), one)
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			at := path + "/" + pointer(key)
			f.text(at, key)
			f.walk(at, v[key])
		}
	}
}

// text looks at one text.
func (f *finder) text(path, s string) {
	if len(s) > longText {
		f.add("long_text", path, fmt.Sprintf("a text of %d bytes, which nobody reads to its end", len(s)), excerpt(s, 0, 0))
	}
	f.characters(path, s)
	f.mixedScripts(path, s)
	if at := blanks.FindStringIndex(s); len(at) == 2 && at[1] < len(s) {
		f.add("hidden_by_space", path, "text behind so much white space that it is out of sight", excerpt(s, at[1], at[1]))
	}
	if at := encoded.FindStringIndex(s); at != nil {
		what := "data that looks encoded"
		if decoded := fromBase64(s[at[0]:at[1]]); decoded != "" {
			what += ", which says: " + decoded
		}
		f.add("encoded_data", path, what, excerpt(s, at[0], min(at[0]+around, at[1])))
	}
	f.phrases(path, s)
}

// characters looks for what cannot be seen.
func (f *finder) characters(path, s string) {
	var hidden strings.Builder
	first := map[string]int{}
	count := map[string]int{}
	var before rune
	for i, r := range s {
		kind := ""
		switch {
		case r >= 0xE0000 && r <= 0xE007F:
			if flagTag(s[:i]) {
				break
			}
			kind = "tag_characters"
			if r >= 0xE0020 && r < 0xE007F {
				hidden.WriteRune(r - 0xE0000)
			}
		case isVariation(r):
			// One behind a character chooses how that is shown. More in a row carry data.
			if isVariation(before) {
				kind = "invisible_characters"
			}
		case r == 0x200D && unicode.Is(unicode.So, lastShown(s[:i])): // joins emoji
		case isBidi(r):
			kind = "bidi_controls"
		case invisible(r):
			kind = "invisible_characters"
		case unicode.IsControl(r) && r != '\n' && r != '\r' && r != '\t', r == utf8.RuneError:
			kind = "control_characters"
		}
		if kind != "" {
			if count[kind]++; count[kind] == 1 {
				first[kind] = i
			}
		}
		before = r
	}
	texts := map[string]string{
		"tag_characters": "characters that no screen shows and models read", "bidi_controls": "characters that change the order in which text is shown",
		"invisible_characters": "characters that cannot be seen", "control_characters": "control characters",
	}
	for _, kind := range slices.Sorted(maps.Keys(count)) {
		text := fmt.Sprintf("%d %s", count[kind], texts[kind])
		if kind == "tag_characters" && hidden.Len() > 0 {
			text += ", which say: " + Visible(clipped(hidden.String()))
		}
		f.add(kind, path, text, excerpt(s, first[kind], first[kind]+1))
	}
}

// invisible tells whether a character is shown as nothing, or moves others.
func invisible(r rune) bool {
	switch {
	case r == 0x00AD, r == 0x034F, r == 0x061C, r == 0x115F, r == 0x1160, r == 0x17B4, r == 0x17B5, r >= 0x180B && r <= 0x180F,
		r >= 0x200B && r <= 0x200F, r >= 0x2028 && r <= 0x202E, r >= 0x2060 && r <= 0x206F, r == 0x2800, r == 0x3164, r == 0xFEFF, r == 0xFFA0,
		r >= 0xFFF0 && r <= 0xFFFB, r >= 0x1BCA0 && r <= 0x1BCA3, r >= 0x1D173 && r <= 0x1D17A, r >= 0xE0000 && r <= 0xE0FFF, isVariation(r):
		return true
	}
	return unicode.Is(unicode.Cf, r)
}

func isVariation(r rune) bool { return r >= 0xFE00 && r <= 0xFE0F || r >= 0xE0100 && r <= 0xE01EF }

func isBidi(r rune) bool {
	return r >= 0x202A && r <= 0x202E || r >= 0x2066 && r <= 0x2069 || r == 0x200E || r == 0x200F || r == 0x061C
}

// flagTag tells whether a tag character goes on with the flag of a region: a black flag, and few tags behind it.
func flagTag(before string) bool {
	const most = 6 // no flag has more
	for range most + 1 {
		r, n := utf8.DecodeLastRuneInString(before)
		if r == 0x1F3F4 {
			return true
		}
		if r < 0xE0020 || r > 0xE007F {
			return false
		}
		before = before[:len(before)-n]
	}
	return false
}

// lastShown is the last character of a text that is no variation selector and no skin tone.
func lastShown(s string) rune {
	for len(s) > 0 {
		r, n := utf8.DecodeLastRuneInString(s)
		if !isVariation(r) && (r < 0x1F3FB || r > 0x1F3FF) {
			return r
		}
		s = s[:len(s)-n]
	}
	return 0
}

// mixedScripts looks for words in which letters of one script are made to look like those of another.
func (f *finder) mixedScripts(path, s string) {
	for at := range words(s) {
		word := s[at[0]:at[1]]
		latin, other := false, false
		for _, r := range word {
			latin = latin || unicode.Is(unicode.Latin, r)
			other = other || unicode.In(r, unicode.Cyrillic, unicode.Greek, unicode.Armenian, unicode.Cherokee) && r != 'µ' && r != 'μ' && r != 'Δ' && r != 'Ω' && r != 'π'
		}
		if latin && other {
			f.add("mixed_scripts", path, "a word of letters that look alike in two scripts", excerpt(s, at[0], at[1]))
			return
		}
	}
}

// words yields where runs of letters stand.
func words(s string) func(yield func([2]int) bool) {
	return func(yield func([2]int) bool) {
		from := -1
		for i, r := range s + " " {
			switch letter := unicode.IsLetter(r); {
			case letter && from < 0:
				from = i
			case !letter && from >= 0:
				if !yield([2]int{from, i}) {
					return
				}
				from = -1
			}
		}
	}
}

var (
	blanks  = regexp.MustCompile(fmt.Sprintf(`[\s\x{00A0}\x{2000}-\x{200A}\x{3000}]{%d,}`, hiddenBehind))
	encoded = regexp.MustCompile(fmt.Sprintf(`[A-Za-z0-9+/_-]{%d,}={0,2}`, longBlob))
)

// fromBase64 reads base64 that holds text.
func fromBase64(s string) string {
	s = strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(s, "="))
	data, err := base64.RawStdEncoding.DecodeString(s[:len(s)/4*4])
	if err != nil || !utf8.Valid(data) || strings.IndexFunc(string(data), func(r rune) bool { return !unicode.IsPrint(r) && r != '\n' }) >= 0 {
		return ""
	}
	return Visible(clipped(string(data)))
}

// phrase is a form of words that does not belong into a description.
type phrase struct {
	kind, text string
	form       *regexp.Regexp
}

const (
	earlier = `(all|any|the|these|those|your|every|other|previous|prior|above|earlier|preceding|former|foregoing|existing|original|system|given|developer|safety|\s)`
	orders  = `(instructions?|prompts?|rules?|directions?|guidelines?|messages?|context|constraints?|policy|policies|commands?|guardrails?)`
)

// phrases are looked for in text in which look-alikes were folded and white space and what cannot be seen was taken out of words.
var phrases = []phrase{
	{"instruction_override", "it tells the model to put other instructions aside", regexp.MustCompile(`(?i)\b(ignore|disregard|forget|override|overrule|bypass|supersede)s?\b` + earlier + `{1,12}\b` + orders + `\b`)},
	{"instruction_override", "it tells the model who it is", regexp.MustCompile(`(?i)\b(you are now|from now on,? you|new system prompt|developer mode|jailbr(ea|o)k\w*)\b`)},
	{"instruction_override", "it poses as another part of the conversation", regexp.MustCompile(`(?i)(<\|?/?(system|im_start|im_end|assistant|user|instructions?|important|secret|hidden|admin)\b[^>]{0,40}\|?>|\[/?inst\]|^\s*(system|assistant)\s*:)`)},
	{"concealment", "it tells the model to hide something from the person", regexp.MustCompile(`(?i)\b(do not|don'?t|never|without|avoid|refrain from)\s+(ever\s+)?(tell(ing)?|mention(ing)?|inform(ing)?|show(ing)?|reveal(ing)?|disclos(e|ing)|notify(ing)?|alert(ing)?|ask(ing)?|let(ting)?|explain(ing)?|report(ing)?|warn(ing)?)\b.{0,60}\b(users?|person|human|customer|anyone|anybody|them|operator)\b`)},
	{"concealment", "it asks for something to be done in secret", regexp.MustCompile(`(?i)\b(secretly|covertly|silently (read|send|pass|include|call|upload|add|append|copy)|keep (this|it) (a )?secret|(the )?user (must|should|need)( not|n'?t) (know|see|notice|be (told|aware|informed)))\b`)},
	{"secret_files", "it names places where secrets lie", regexp.MustCompile(`(?i)(~/\.(ssh|aws|kube|gnupg|cursor|docker|netrc|npmrc|config/gcloud)|\bid_(rsa|ed25519|ecdsa)\b|/etc/(passwd|shadow)|\.cursor/mcp\.json|claude_desktop_config|\bauthorized_keys\b|\.git-credentials)`)},
	{"data_smuggling", "it asks for data that the tool does not need to be passed along", regexp.MustCompile(`(?i)\b(pass|send|include|put|add|append|copy|forward|upload|post|exfiltrate|embed)\b.{0,60}\b(conversation|chat history|system prompt|entire (context|history)|all (previous|prior) messages|private keys?|(api|access|secret|bearer) (keys?|tokens?)|passwords?|credentials|environment variables)\b`)},
	{"other_tools", "it gives orders about other tools", regexp.MustCompile(`(?i)\b((before|after|whenever|when|instead of|prior to)\s+(you\s+)?(use|using|call|calling|invoke|invoking|run|running)\s+(any|all|every|other|another|this or any)\s*(other\s+)?tools?|do not (use|call|trust) (any |the )?other tools?)\b`)},
	{"hidden_markup", "a comment or an element that a page would not show", regexp.MustCompile(`(?is)(<!--|<(script|iframe|style|object|embed)\b|display\s*:\s*none|font-size\s*:\s*0|\[//\]:\s*#)`)},
	{"hidden_markup", "a picture that is fetched from elsewhere when it is shown", regexp.MustCompile(`(?i)(!\[[^\]]*\]\(\s*https?:|<img\b)`)},
}

// phrases looks for forms of words.
func (f *finder) phrases(path, s string) {
	folded := fold(s)
	for _, p := range phrases {
		if at := p.form.FindStringIndex(folded); at != nil {
			f.add(p.kind, path, p.text, excerpt(folded, at[0], at[1]))
		}
	}
}

// fold makes a text what it is read as: compatible forms as plain letters (NFKC), without what cannot be seen, white space as one space.
func fold(s string) string {
	s = norm.NFKC.String(strings.Map(func(r rune) rune {
		switch {
		case r == '’' || r == 'ʼ':
			return '\''
		case isLookalike(r) != 0:
			return isLookalike(r)
		case unicode.IsSpace(r):
			return ' '
		case invisible(r):
			return -1
		}
		return r
	}, s))
	return strings.Join(strings.Fields(s), " ")
}

// isLookalike is the Latin letter for which a Cyrillic or Greek one is taken; zero: none.
func isLookalike(r rune) rune {
	const from, to = "аеіјорсухѕԁһӏАВЕІЈКМНОРСТУХЅαορνικΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "aeijopcyxsdhlABEIJKMHOPCTYXSaopvikABEZHIKMNOPTYX"
	if r < 0x370 || r > 0x52F {
		return 0
	}
	if at := strings.IndexRune(from, r); at >= 0 {
		return rune(to[utf8.RuneCountInString(from[:at])])
	}
	return 0
}

// excerpt is a part of a text with some words around it, made visible.
func excerpt(s string, from, to int) string {
	start, end := from, to
	for range around {
		_, n := utf8.DecodeLastRuneInString(s[:start])
		start -= n
		_, n = utf8.DecodeRuneInString(s[end:])
		end += n
	}
	out := clipped(s[start:end])
	if start > 0 {
		out = "…" + out
	}
	if end < len(s) {
		out += "…"
	}
	return Visible(out)
}

// clipped bounds a text.
func clipped(s string) string {
	const most = 200
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most]) + "…"
}
