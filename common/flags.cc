#include "common/flags.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "common/bytes.h"
#include "common/json.h"

namespace reprise {
namespace {

struct Unit {
  absl::string_view suffix;
  int64_t factor;
};
// Longest suffixes first: "ms" ends in "s".
constexpr Unit kDurationUnits[] = {{"ms", 1}, {"s", 1000}, {"m", 60'000}, {"h", 3'600'000}};
constexpr Unit kByteUnits[] = {
    {"KiB", int64_t{1} << 10}, {"MiB", int64_t{1} << 20}, {"GiB", int64_t{1} << 30}, {"B", 1}};

template <size_t kCount>
bool ParseWithUnit(absl::string_view text, const Unit (&units)[kCount], int64_t& value) {
  int64_t factor = 1;
  for (const Unit& unit : units) {
    if (absl::EndsWith(text, unit.suffix)) {
      factor = unit.factor;
      text.remove_suffix(unit.suffix.size());
      break;
    }
  }
  int64_t number = 0;
  return absl::SimpleAtoi(text, &number) && !__builtin_mul_overflow(number, factor, &value);
}

// The largest unit that divides `value`.
template <size_t kCount>
std::string TextWithUnit(int64_t value, const Unit (&units)[kCount]) {
  const Unit* best = nullptr;
  for (const Unit& unit : units) {
    if (value % unit.factor != 0) continue;
    if (best == nullptr || (unit.factor > best->factor && value != 0)) best = &unit;
  }
  return absl::StrCat(value / best->factor, best->suffix);
}

// Levenshtein's distance, by rows.
size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row[b.size()];
}

}  // namespace

FlagSet::FlagSet(absl::string_view command, absl::string_view summary, absl::string_view positional)
    : command_(command), summary_(summary), positional_(positional) {}

FlagSet::Flag& FlagSet::Declare(absl::string_view name, Kind kind, Target target,
                                absl::string_view help) {
  // Two fields behind one name is a mistake in the program that no run can survive.
  if (Find(name) != nullptr || name == "help") std::abort();
  Flag flag;
  flag.name = std::string(name);
  flag.kind = kind;
  flag.target = target;
  flag.help = std::string(help);
  flag.default_text = ValueText(flag);
  flags_.push_back(std::move(flag));
  return flags_.back();
}

void FlagSet::Add(absl::string_view name, std::string* target, absl::string_view help) {
  Declare(name, Kind::kString, target, help);
}
void FlagSet::Add(absl::string_view name, std::vector<std::string>* target,
                  absl::string_view help) {
  Declare(name, Kind::kList, target, help);
}
void FlagSet::Add(absl::string_view name, bool* target, absl::string_view help) {
  Declare(name, Kind::kBool, target, help);
}
void FlagSet::Add(absl::string_view name, int32_t* target, absl::string_view help) {
  Flag& flag = Declare(name, Kind::kInt32, target, help);
  flag.min_int = std::numeric_limits<int32_t>::min();
  flag.max_int = std::numeric_limits<int32_t>::max();
}
void FlagSet::Add(absl::string_view name, int64_t* target, absl::string_view help) {
  Declare(name, Kind::kInt64, target, help);
}
void FlagSet::Add(absl::string_view name, double* target, absl::string_view help) {
  Declare(name, Kind::kDouble, target, help);
}

void FlagSet::AddSecret(absl::string_view name, std::string* target, absl::string_view help) {
  Flag& flag = Declare(name, Kind::kString, target, help);
  flag.secret = true;
  flag.default_text = ValueText(flag);
}

void FlagSet::AddChoice(absl::string_view name, std::string* target,
                        std::vector<std::string> choices, absl::string_view help) {
  Declare(name, Kind::kString, target, help).choices = std::move(choices);
}

void FlagSet::Bound(Flag& flag, int64_t min, int64_t max) {
  flag.min_int = min;
  flag.max_int = max;
  flag.bounded = true;
}

void FlagSet::AddRange(absl::string_view name, int32_t* target, int32_t min, int32_t max,
                       absl::string_view help) {
  Bound(Declare(name, Kind::kInt32, target, help), min, max);
}
void FlagSet::AddRange(absl::string_view name, int64_t* target, int64_t min, int64_t max,
                       absl::string_view help) {
  Bound(Declare(name, Kind::kInt64, target, help), min, max);
}
void FlagSet::AddRange(absl::string_view name, double* target, double min, double max,
                       absl::string_view help) {
  Flag& flag = Declare(name, Kind::kDouble, target, help);
  flag.min_double = min;
  flag.max_double = max;
  flag.bounded = true;
}
void FlagSet::AddDurationMs(absl::string_view name, int64_t* target, int64_t min_ms, int64_t max_ms,
                            absl::string_view help) {
  Bound(Declare(name, Kind::kDurationMs, target, help), min_ms, max_ms);
}
void FlagSet::AddBytes(absl::string_view name, int64_t* target, int64_t min, int64_t max,
                       absl::string_view help) {
  Bound(Declare(name, Kind::kBytes, target, help), min, max);
}

FlagSet::Flag* FlagSet::Find(absl::string_view name) {
  const auto found = std::find_if(flags_.begin(), flags_.end(),
                                  [&](const Flag& flag) { return flag.name == name; });
  return found == flags_.end() ? nullptr : &*found;
}

Status FlagSet::Unknown(absl::string_view name) const {
  const Flag* nearest = nullptr;
  size_t distance = std::max<size_t>(2, name.size() / 3) + 1;  // farther ones only mislead
  for (const Flag& flag : flags_) {
    const size_t d = EditDistance(name, flag.name);
    if (d < distance) {
      distance = d;
      nearest = &flag;
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat(command_, ": unknown flag --", name,
                   nearest == nullptr ? " (see --help)"
                                      : absl::StrCat(", did you mean --", nearest->name, "?")));
}

StatusOr<std::vector<std::string>> FlagSet::Parse(const std::vector<std::string>& args) {
  std::vector<std::string> positional;
  for (size_t next = 0; next < args.size();) {
    const std::string& arg = args[next];
    if (arg == "--") {
      positional.insert(positional.end(), args.begin() + next + 1, args.end());
      break;
    }
    if (!absl::StartsWith(arg, "--")) {
      positional.push_back(arg);
      ++next;
      continue;
    }
    RETURN_IF_ERROR(ParseFlag(args, next));
  }
  return positional;
}

Status FlagSet::ParseFlag(const std::vector<std::string>& args, size_t& next) {
  absl::string_view name = absl::string_view(args[next++]).substr(2);
  if (name == "help") {
    help_requested_ = true;
    return absl::OkStatus();
  }
  const size_t equals = name.find('=');
  const bool has_value = equals != absl::string_view::npos;
  absl::string_view value = has_value ? name.substr(equals + 1) : "";
  name = name.substr(0, equals);
  Flag* flag = Find(name);
  if (flag == nullptr && !has_value && absl::StartsWith(name, "no-")) {
    flag = Find(name.substr(3));
    if (flag != nullptr && flag->kind != Kind::kBool) flag = nullptr;
    value = "false";
  } else if (flag != nullptr && flag->kind == Kind::kBool && !has_value) {
    value = "true";
  } else if (flag != nullptr && !has_value) {
    if (next == args.size()) {
      return absl::InvalidArgumentError(absl::StrCat(command_, ": --", name, " needs a value"));
    }
    value = args[next++];
  }
  if (flag == nullptr) return Unknown(name);
  if (flag->kind == Kind::kList) {
    auto& list = *std::get<std::vector<std::string>*>(flag->target);
    if (!flag->seen) list.clear();
  } else if (flag->seen) {
    return absl::InvalidArgumentError(absl::StrCat(command_, ": --", flag->name, " given twice"));
  }
  flag->seen = true;
  return Annotate(Set(*flag, value), absl::StrCat(command_, ": --", flag->name));
}

Status FlagSet::Set(Flag& flag, absl::string_view text) {
  switch (flag.kind) {
    case Kind::kString:
      if (!flag.choices.empty() &&
          std::find(flag.choices.begin(), flag.choices.end(), text) == flag.choices.end()) {
        return absl::InvalidArgumentError(absl::StrCat(
            "must be one of ", absl::StrJoin(flag.choices, ", "), ", not \"", text, "\""));
      }
      *std::get<std::string*>(flag.target) = std::string(text);
      return absl::OkStatus();
    case Kind::kList:
      std::get<std::vector<std::string>*>(flag.target)->emplace_back(text);
      return absl::OkStatus();
    case Kind::kBool:
      if (text != "true" && text != "false") {
        return absl::InvalidArgumentError(
            absl::StrCat("must be true or false, not \"", text, "\""));
      }
      *std::get<bool*>(flag.target) = text == "true";
      return absl::OkStatus();
    case Kind::kDouble:
      return SetDouble(flag, text);
    default:
      return SetInteger(flag, text);
  }
}

Status FlagSet::SetInteger(Flag& flag, absl::string_view text) {
  int64_t value = 0;
  const bool parsed = flag.kind == Kind::kDurationMs ? ParseWithUnit(text, kDurationUnits, value)
                      : flag.kind == Kind::kBytes    ? ParseWithUnit(text, kByteUnits, value)
                                                     : absl::SimpleAtoi(text, &value);
  if (!parsed) {
    const absl::string_view expected = flag.kind == Kind::kDurationMs
                                           ? "a duration like 250ms or 2s"
                                       : flag.kind == Kind::kBytes ? "a size like 4096 or 64MiB"
                                                                   : "an integer";
    return absl::InvalidArgumentError(absl::StrCat("must be ", expected, ", not \"", text, "\""));
  }
  if (value < flag.min_int || value > flag.max_int) {
    return absl::InvalidArgumentError(absl::StrCat("must be in ", RangeText(flag), ", not ", text));
  }
  if (flag.kind == Kind::kInt32) {
    *std::get<int32_t*>(flag.target) = static_cast<int32_t>(value);
  } else {
    *std::get<int64_t*>(flag.target) = value;
  }
  return absl::OkStatus();
}

Status FlagSet::SetDouble(Flag& flag, absl::string_view text) {
  double value = 0;
  if (!absl::SimpleAtod(text, &value) || !std::isfinite(value)) {
    return absl::InvalidArgumentError(absl::StrCat("must be a number, not \"", text, "\""));
  }
  if (value < flag.min_double || value > flag.max_double) {
    return absl::InvalidArgumentError(absl::StrCat("must be in ", RangeText(flag), ", not ", text));
  }
  *std::get<double*>(flag.target) = value;
  return absl::OkStatus();
}

std::string FlagSet::RangeText(const Flag& flag) {
  switch (flag.kind) {
    case Kind::kDouble:
      return absl::StrCat("[", flag.min_double, ", ", flag.max_double, "]");
    case Kind::kDurationMs:
      return absl::StrCat("[", TextWithUnit(flag.min_int, kDurationUnits), ", ",
                          TextWithUnit(flag.max_int, kDurationUnits), "]");
    case Kind::kBytes:
      return absl::StrCat("[", TextWithUnit(flag.min_int, kByteUnits), ", ",
                          TextWithUnit(flag.max_int, kByteUnits), "]");
    default:
      return absl::StrCat("[", flag.min_int, ", ", flag.max_int, "]");
  }
}

std::string FlagSet::ValueText(const Flag& flag) {
  switch (flag.kind) {
    case Kind::kString: {
      const std::string& text = *std::get<std::string*>(flag.target);
      return flag.secret && !text.empty() ? "***" : text;
    }
    case Kind::kList:
      return absl::StrJoin(*std::get<std::vector<std::string>*>(flag.target), " ");
    case Kind::kBool:
      return *std::get<bool*>(flag.target) ? "true" : "false";
    case Kind::kInt32:
      return absl::StrCat(*std::get<int32_t*>(flag.target));
    case Kind::kInt64:
      return absl::StrCat(*std::get<int64_t*>(flag.target));
    case Kind::kDouble:
      return absl::StrCat(*std::get<double*>(flag.target));
    case Kind::kDurationMs:
      return TextWithUnit(*std::get<int64_t*>(flag.target), kDurationUnits);
    case Kind::kBytes:
      return TextWithUnit(*std::get<int64_t*>(flag.target), kByteUnits);
  }
  return "";
}

std::string FlagSet::Help() const {
  std::string text = absl::StrCat(command_, ": ", summary_, "\n\nUsage: ", command_, " [flags]",
                                  positional_.empty() ? "" : " ", positional_, "\n\nFlags:\n");
  for (const Flag& flag : flags_) {
    absl::StrAppend(&text, flag.kind == Kind::kBool ? "  --[no-]" : "  --", flag.name, "\n      ",
                    flag.help, flag.kind == Kind::kList ? " (may be repeated)" : "");
    if (!flag.choices.empty()) {
      absl::StrAppend(&text, "; one of ", absl::StrJoin(flag.choices, ", "));
    }
    if (flag.bounded) absl::StrAppend(&text, "; in ", RangeText(flag));
    if (!flag.default_text.empty()) absl::StrAppend(&text, "; default ", flag.default_text);
    absl::StrAppend(&text, "\n");
  }
  absl::StrAppend(&text, "  --help\n      print this text\n");
  return text;
}

std::string FlagSet::Echo() const {
  JsonWriter json;
  for (const Flag& flag : flags_) {
    switch (flag.kind) {
      case Kind::kString:
        json.Field(flag.name, ValueText(flag));
        break;
      case Kind::kList: {
        std::vector<std::string> quoted;
        for (const std::string& item : *std::get<std::vector<std::string>*>(flag.target)) {
          quoted.push_back(JsonQuote(item));
        }
        json.Raw(flag.name, absl::StrCat("[", absl::StrJoin(quoted, ","), "]"));
        break;
      }
      case Kind::kBool:
        json.Field(flag.name, *std::get<bool*>(flag.target));
        break;
      case Kind::kInt32:
        json.Field(flag.name, int64_t{*std::get<int32_t*>(flag.target)});
        break;
      case Kind::kDouble:
        json.Field(flag.name, *std::get<double*>(flag.target));
        break;
      default:
        json.Field(flag.name, *std::get<int64_t*>(flag.target));
        break;
    }
  }
  return json.Take();
}

}  // namespace reprise
