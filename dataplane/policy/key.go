package policy

import fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

// Key names an entry, as removals do. It is comparable; the zero Key names nothing.
type Key struct {
	kind      uint8
	number    uint32
	id        [16]byte
	connector string // or a block's or client's id, or an issuer's URL
	everyone  string
}

const (
	userKey uint8 = iota + 1
	groupKey
	grantKey
	connectorKey
	catalogueKey
	blockKey
	issuerKey
	authorityKey
	endedSessionKey
	cutClientKey
	principalGrantKey
)

// KeyOf returns the key of an entry. A change replaces the entry of the same key.
func KeyOf(e *fleetv1.Entry) Key {
	switch v := e.GetValue().(type) {
	case *fleetv1.Entry_User:
		return idKeyOf(userKey, v.User.GetId())
	case *fleetv1.Entry_Group:
		return Key{kind: groupKey, number: v.Group.GetNumber()}
	case *fleetv1.Entry_Grant:
		return Key{kind: grantKey, number: v.Grant.GetGroup(), connector: v.Grant.GetConnector()}
	case *fleetv1.Entry_Connector:
		return Key{kind: connectorKey, connector: v.Connector.GetId()}
	case *fleetv1.Entry_Catalogue:
		return Key{kind: catalogueKey, connector: v.Catalogue.GetConnector()}
	case *fleetv1.Entry_Block:
		return Key{kind: blockKey, connector: v.Block.GetId()}
	case *fleetv1.Entry_Issuer:
		return Key{kind: issuerKey, connector: v.Issuer.GetIssuer().GetUrl()}
	case *fleetv1.Entry_AuthorizationServer:
		return Key{kind: authorityKey, connector: v.AuthorizationServer.GetIssuer()}
	case *fleetv1.Entry_RevokedSession:
		return idKeyOf(endedSessionKey, v.RevokedSession.GetId())
	case *fleetv1.Entry_RevokedClient:
		return Key{kind: cutClientKey, connector: v.RevokedClient.GetClientId()}
	case *fleetv1.Entry_PrincipalGrant:
		to, err := principalOf(v.PrincipalGrant.GetKey())
		if err != nil {
			return Key{}
		}
		return Key{kind: principalGrantKey, id: to.person, everyone: to.everyone, connector: v.PrincipalGrant.GetKey().GetConnector()}
	}
	return Key{}
}

// Wire is the key as a removal names it; nil for the zero Key.
func (k Key) Wire() *fleetv1.EntryKey {
	switch k.kind {
	case userKey:
		return &fleetv1.EntryKey{Key: &fleetv1.EntryKey_User{User: k.id[:]}}
	case groupKey:
		return &fleetv1.EntryKey{Key: &fleetv1.EntryKey_Group{Group: k.number}}
	case grantKey:
		return &fleetv1.EntryKey{Key: &fleetv1.EntryKey_Grant{Grant: &fleetv1.GrantKey{Group: k.number, Connector: k.connector}}}
	case connectorKey:
		return &fleetv1.EntryKey{Key: &fleetv1.EntryKey_Connector{Connector: k.connector}}
	case catalogueKey:
		return &fleetv1.EntryKey{Key: &fleetv1.EntryKey_Catalogue{Catalogue: k.connector}}
	case blockKey:
		return &fleetv1.EntryKey{Key: &fleetv1.EntryKey_Block{Block: k.connector}}
	case issuerKey:
		return &fleetv1.EntryKey{Key: &fleetv1.EntryKey_Issuer{Issuer: k.connector}}
	case authorityKey:
		return &fleetv1.EntryKey{Key: &fleetv1.EntryKey_AuthorizationServer{AuthorizationServer: k.connector}}
	case endedSessionKey:
		return &fleetv1.EntryKey{Key: &fleetv1.EntryKey_RevokedSession{RevokedSession: k.id[:]}}
	case cutClientKey:
		return &fleetv1.EntryKey{Key: &fleetv1.EntryKey_RevokedClient{RevokedClient: k.connector}}
	case principalGrantKey:
		key := &fleetv1.PrincipalGrantKey{Connector: k.connector, To: &fleetv1.PrincipalGrantKey_Person{Person: k.id[:]}}
		if k.everyone != "" {
			key.To = &fleetv1.PrincipalGrantKey_Everyone{Everyone: k.everyone}
		}
		return &fleetv1.EntryKey{Key: &fleetv1.EntryKey_PrincipalGrant{PrincipalGrant: key}}
	}
	return nil
}

func idKeyOf(kind uint8, id []byte) Key {
	if len(id) != 16 {
		return Key{}
	}
	return Key{kind: kind, id: [16]byte(id)}
}
