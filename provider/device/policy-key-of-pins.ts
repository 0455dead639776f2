/**
 * Shell function `bound PINS`: prints the fingerprint of the policy key that a pinned volume is sealed by, as approvals name it (`pkfp`): SHA-256 of its PKCS#1 DER, which is what follows the first
 * 24 bytes of an RSA-2048 key. For scripts that are sent to a node.
 */
export const policyKeyOfPins = `bound() {
  pinned_key=$(sed -n '/^fact tokens\\.[0-9]*\\.tpm2_pubkey /{s/^[^ ]* [^ ]* //;s|\\\\/|/|g;p;}' "$1" | base64 -d | sed '/^-----/d' | base64 -d | tail -c +25 | sha256sum)
  printf '%s\\n' "\${pinned_key%% *}"
}
`;
