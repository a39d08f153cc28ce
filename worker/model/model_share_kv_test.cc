// What a rank computes is what it keeps: the shares of worker/model, the stripes of worker/parallel
// and the parts of kvstore/block/group_split.h are the same rule.
#include <gtest/gtest.h>

#include "kvstore/block/group_split.h"
#include "worker/model/model_share.h"
#include "worker/parallel/context/stripes.h"

namespace reprise::worker {
namespace {

ModelConfig Config(int64_t layers, int64_t heads, int64_t kv_heads) {
  ModelConfig config;
  config.hidden = heads * 32;
  config.intermediate = heads * 64;
  config.layers = layers;
  config.heads = heads;
  config.kv_heads = kv_heads;
  config.head_dim = 32;
  config.vocab = 1024;
  return config;
}

kv::KvFormat FormatOf(const ModelConfig& config) {
  kv::KvFormat format;
  for (const char* field : {"k", "v"}) {
    format.fields.push_back({.name = field,
                             .heads = static_cast<uint32_t>(config.kv_heads),
                             .elements = static_cast<uint32_t>(config.head_dim)});
  }
  format.layers = static_cast<uint32_t>(config.layers);
  return format;
}

TEST(ModelShareKvTest, ARankKeepsTheLayersAndHeadsItComputes) {
  int shares = 0;
  for (const int64_t layers : {4, 5, 7}) {
    for (const int64_t kv_heads : {1, 2, 4, 8}) {
      const ModelConfig config = Config(layers, 8, kv_heads);
      const kv::KvFormat format = FormatOf(config);
      for (const uint32_t pipeline : {1, 2, 3, 4}) {
        for (const uint32_t tensor : {1, 2, 4, 8}) {
          const kv::GroupSplit split{.pipeline = pipeline, .tensor = tensor, .context = 2};
          for (uint32_t rank = 0; rank < split.ranks(); ++rank) {
            const auto share = ShareOf(config, split, rank);
            if (!share.ok()) continue;  // a split that the model refuses
            ++shares;
            ASSERT_TRUE(kv::CheckSplit(format, split).ok());
            const kv::KvPart part = kv::PartOfRank(format, split, rank);
            EXPECT_EQ(share->layers, (Span{part.layers.begin, part.layers.end}));
            EXPECT_EQ(share->kv_heads, (Span{part.heads.begin, part.heads.end}))
                << kv_heads << " heads, rank " << rank << " of " << tensor << " tensor ranks";
          }
        }
      }
    }
  }
  EXPECT_GT(shares, 1000);
}

TEST(ModelShareKvTest, ARankKeepsThePositionsItComputes) {
  for (const int ranks : {1, 2, 3, 4}) {
    for (const int64_t leaves : {1, 2, 4}) {
      const auto stripes = parallel::Stripes::Make(ranks, leaves);
      ASSERT_TRUE(stripes.ok()) << stripes.status();
      for (int64_t position = 0; position < 40 * 512; position += 64) {
        EXPECT_EQ(static_cast<int>(kv::ContextOwner(static_cast<uint32_t>(ranks),
                                                    static_cast<uint32_t>(leaves), position)),
                  stripes->OwnerOfPosition(position));
      }
    }
  }
}

}  // namespace
}  // namespace reprise::worker
