package strictjson_test

import "math/big"

// sameRational compares two decimals that a float64's range holds, without rounding.
func sameRational(a, b string) bool {
	x, okX := new(big.Rat).SetString(a)
	y, okY := new(big.Rat).SetString(b)
	return okX && okY && x.Cmp(y) == 0
}
