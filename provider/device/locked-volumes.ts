import { policyKeyOfPins } from "./policy-key-of-pins.ts";

/**
 * Shell function `locked_in POLICY APPROVALS CONF...`: sets `locked`, the names of those volumes that stay locked in a boot whose state has this policy, and `signed`, the approvals of that state,
 * a line each. A volume opens by an approval of the policy key that it is sealed to (the fingerprint, as approvals have it, of the key in its pins; one that is not finished by any).
 */
export const lockedVolumes = `${policyKeyOfPins}locked_in() {
  locked='' signed=''
  if [ -f "$2" ]; then
    signed=$(tr -d ' \\t\\r\\n' <"$2" | sed 's/},{/}\\n{/g' | grep -iF '"pol":"'"$1"'"' || :)
  fi
  shift 2
  for conf; do
    by=''
    if [ -f "\${conf%.conf}.pins" ]; then by=$(printf '"pkfp":"%s"' "$(bound "\${conf%.conf}.pins")"); fi
    if [ -n "$signed" ] && printf '%s\\n' "$signed" | grep -qF -e "$by"; then continue; fi
    conf=\${conf##*/}
    locked="$locked \${conf%.conf}"
  done
}
`;

/**
 * Shell function `next_policy [--with FOLDER]`, for scripts that set `measure`, the path of the measuring program: sets `policy`, by which the state is approved that the next boot would measure, or one with the
 * files of that folder on the boot partition. Where it can't be told it says why on standard error, and fails. systemd's signature file names each state by the digest of its policy, which the measuring program
 * works out as it does for the log of a boot.
 */
export const nextPolicy = `next_policy() {
  next=$($measure --next "$@") || { echo "$measure --next failed" >&2; return 1; }
  policy=$(printf '%s\\n' "$next" | $measure --policy) || { echo "$measure --policy failed" >&2; return 1; }
  case $policy in *[!0-9a-f]*) policy= ;; esac
  [ "\${#policy}" -eq 64 ] || { echo "$measure --policy printed no digest" >&2; return 1; }
}
`;
