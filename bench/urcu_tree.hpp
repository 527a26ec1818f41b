// A plain path-copying B+tree under liburcu, for the interval tree to be compared with: nodes of
// the same sizes, searched in the same way, without what Faultline's tree does besides (holes,
// transactions, a fill that is kept on erase). Must never be made slower than it need be.
//
// Locking: one writer; readers are registered with liburcu.
#pragma once

#include <cstddef>
#include <cstdint>

namespace faultline::bench {

class UrcuTree {
 public:
  // How a thread reads: registered as long as one of these lives.
  class Reader {
   public:
    Reader();
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;
    ~Reader();
  };

  UrcuTree();
  UrcuTree(const UrcuTree&) = delete;
  UrcuTree& operator=(const UrcuTree&) = delete;
  ~UrcuTree();

  // The end of the interval that contains `at`; 0 where there is none. On a registered thread.
  [[nodiscard]] std::uint64_t find_end(std::uint64_t at) const;
  void insert(std::uint64_t start, std::uint64_t end);
  void erase(std::uint64_t start);

  struct Node;

 private:
  void publish(Node* root);
  Node* copy(const Node& node);
  Node* insert_into(Node* node, std::uint64_t start, std::uint64_t end, Node** sibling);
  Node* erase_from(Node* node, std::uint64_t start);

  Node* root_;
  Node* replaced_ = nullptr;
};

}  // namespace faultline::bench
