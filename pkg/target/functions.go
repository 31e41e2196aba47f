package target

import (
	"fmt"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig/v3"
)

// maxItems stops functions that make endless lists out of a number alone: one line would fill the memory.
const maxItems = 10_000

// unrepeatable are functions of sprig that give something else each time, or change what all clusters share, beside
// those that sprig itself leaves out.
var unrepeatable = []string{
	"ago", "shuffle", "randInt",
	"bcrypt", "htpasswd", "encryptAES", "genPrivateKey", "genCA", "genCAWithKey", "genSelfSignedCert",
	"genSelfSignedCertWithKey", "genSignedCert", "genSignedCertWithKey",
	"set", "unset",
}

// functions are those of sprig that give the same everywhere and leave their arguments alone.
func functions() template.FuncMap {
	funcs := sprig.HermeticTxtFuncMap()
	for _, name := range unrepeatable {
		delete(funcs, name)
	}
	for _, name := range []string{"merge", "mergeOverwrite", "mustMerge", "mustMergeOverwrite"} {
		funcs[name] = intoCopy(funcs["deepCopy"].(func(any) any), funcs[name])
	}
	until, untilStep := funcs["until"].(func(int) []int), funcs["untilStep"].(func(int, int, int) []int)
	funcs["until"] = func(n int) ([]int, error) {
		if n > maxItems || n < -maxItems {
			return nil, tooMany(n)
		}
		return until(n), nil
	}
	funcs["untilStep"] = func(start, stop, step int) ([]int, error) {
		if step != 0 && ((stop-start)/step > maxItems || (stop-start)/step < -maxItems) {
			return nil, tooMany((stop - start) / step)
		}
		return untilStep(start, stop, step), nil
	}
	delete(funcs, "seq") // writes what until and join do
	funcs["repeat"] = func(n int, text string) (string, error) {
		if n < 0 || n > maxItems {
			return "", tooMany(n)
		}
		if n*len(text) > maxExpansion {
			return "", fmt.Errorf("more than %d bytes", maxExpansion)
		}
		return strings.Repeat(text, n), nil
	}
	for _, name := range []string{"indent", "nindent"} {
		indent := funcs[name].(func(int, string) string)
		funcs[name] = func(n int, text string) (string, error) {
			if n < 0 || n > maxItems {
				return "", tooMany(n)
			}
			if (strings.Count(text, "\n")+1)*n > maxExpansion {
				return "", fmt.Errorf("more than %d bytes", maxExpansion)
			}
			return indent(n, text), nil
		}
	}
	return funcs
}

func tooMany(n int) error {
	return fmt.Errorf("%d is more than the %d that templates may make", n, maxItems)
}

// intoCopy lets a merge change a copy of its first argument.
func intoCopy(deepCopy func(any) any, merge any) any {
	switch merge := merge.(type) {
	case func(map[string]any, ...map[string]any) any:
		return func(into map[string]any, from ...map[string]any) any {
			return merge(deepCopy(into).(map[string]any), from...)
		}
	case func(map[string]any, ...map[string]any) (any, error):
		return func(into map[string]any, from ...map[string]any) (any, error) {
			return merge(deepCopy(into).(map[string]any), from...)
		}
	}
	panic("sprig's merge has another form than expected")
}
