#include "gateway/text/split_rule.h"

#include <optional>

namespace reprise {
namespace {

// Collects the sections of one piece, matches and gaps in text order, into spans. The merging rules
// look only at the section before, so one pass does for all of them; they are those of the
// reference (tokenizers, NormalizedString::split), where a run of matches merges only its first.
class SpanBuilder {
 public:
  SpanBuilder(SplitBehavior behavior, bool invert, std::vector<Span>& out)
      : behavior_(behavior), invert_(invert), out_(out) {}

  void StartPiece() {
    first_ = true;
    previous_match_ = false;
    piece_first_span_ = out_.size();
    pending_match_.reset();
  }

  void Add(Span section, bool match) {
    match = match != invert_;
    switch (behavior_) {
      case SplitBehavior::kRemoved:
        if (!match) Emit(section);
        break;
      case SplitBehavior::kIsolated:
        Emit(section);
        break;
      case SplitBehavior::kContiguous:
        Merge(section, !first_ && match == previous_match_);
        break;
      case SplitBehavior::kMergedWithPrevious:
        Merge(section, !first_ && match && !previous_match_);
        break;
      case SplitBehavior::kMergedWithNext:
        AddMergedWithNext(section, match);
        break;
    }
    first_ = false;
    previous_match_ = match;
  }

  void EndPiece() {
    if (pending_match_) Emit(*pending_match_);
    pending_match_.reset();
  }

 private:
  void Emit(Span section) {
    if (section.begin < section.end) out_.push_back(section);
  }

  void Merge(Span section, bool into_previous) {
    if (into_previous && out_.size() > piece_first_span_) {
      out_.back().end = section.end;
    } else {
      Emit(section);
    }
  }

  // A match joins the section after it unless that is a match too; then it stands alone.
  void AddMergedWithNext(Span section, bool match) {
    if (pending_match_ && !match) {
      section.begin = pending_match_->begin;
      pending_match_.reset();
    }
    if (pending_match_) Emit(*pending_match_);
    pending_match_.reset();
    if (match) {
      pending_match_ = section;
    } else {
      Emit(section);
    }
  }

  const SplitBehavior behavior_;
  const bool invert_;
  std::vector<Span>& out_;
  std::optional<Span> pending_match_;
  size_t piece_first_span_ = 0;
  bool first_ = true;
  bool previous_match_ = false;
};

class SplitRule : public PreTokenizer::Rule {
 public:
  SplitRule(std::unique_ptr<Matcher> matcher, SplitBehavior behavior, bool invert)
      : matcher_(std::move(matcher)), behavior_(behavior), invert_(invert) {}

  Status Apply(Pieces& pieces) const override {
    return SplitPieces(*matcher_, behavior_, invert_, pieces);
  }

 private:
  const std::unique_ptr<Matcher> matcher_;
  const SplitBehavior behavior_;
  const bool invert_;
};

}  // namespace

StatusOr<SplitBehavior> ParseSplitBehavior(absl::string_view name, absl::string_view what) {
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  return absl::InvalidArgumentError(
      absl::StrCat(what, " behavior ", JsonQuote(name), " is not supported"));
}

Status SplitPieces(const Matcher& matcher, SplitBehavior behavior, bool invert, Pieces& pieces) {
  std::vector<Span> out;
  out.reserve(pieces.spans.size());
  SpanBuilder builder(behavior, invert, out);
  size_t open = 0;  // the piece being cut
  uint32_t done = 0;
  const auto start_piece = [&](size_t piece) {
    open = piece;
    done = pieces.spans[piece].begin;
    builder.StartPiece();
  };
  const auto end_piece = [&] {
    const uint32_t end = pieces.spans[open].end;
    if (done < end) builder.Add({done, end}, /*match=*/false);
    builder.EndPiece();
  };
  if (pieces.spans.empty()) return absl::OkStatus();
  start_piece(0);
  RETURN_IF_ERROR(matcher.Find(pieces.text, pieces.spans, [&](size_t piece, Span match) {
    while (open < piece) {
      end_piece();
      start_piece(open + 1);
    }
    if (done < match.begin) builder.Add({done, match.begin}, /*match=*/false);
    builder.Add(match, /*match=*/true);
    done = match.end;
  }));
  end_piece();
  while (open + 1 < pieces.spans.size()) {
    start_piece(open + 1);
    end_piece();
  }
  pieces.at_start =
      pieces.at_start && !out.empty() && out.front().begin == pieces.spans.front().begin;
  pieces.spans = std::move(out);
  return absl::OkStatus();
}

std::unique_ptr<PreTokenizer::Rule> NewSplitRule(std::unique_ptr<Matcher> matcher,
                                                 SplitBehavior behavior, bool invert) {
  return std::make_unique<SplitRule>(std::move(matcher), behavior, invert);
}

}  // namespace reprise
